-- The search folds accents by itself here; PostgreSQL's is made to, in its own migration of this number.
SELECT 1;
