"""Turns runs into a table: rows, columns, statistics, selection and verdict."""
