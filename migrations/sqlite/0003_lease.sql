-- On SQLite the one writer holds a file lock (S-85); the version exists so that both databases count alike.
SELECT 1;
