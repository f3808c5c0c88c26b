-- The tables of the Flask example, with rows. Loaded by `weir demo`, by docker-compose.yml and by hand alike:
--     psql "$SQLALCHEMY_DATABASE_URI" -f sample.sql
-- article.author_id has no index, on purpose: see README.md.

BEGIN;

CREATE TABLE author (
    id serial PRIMARY KEY,
    name text NOT NULL,
    email text NOT NULL UNIQUE
);

CREATE TABLE article (
    id serial PRIMARY KEY,
    title text NOT NULL,
    body text NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now(),
    author_id integer NOT NULL REFERENCES author
);

CREATE INDEX article_published_at ON article (published_at);

INSERT INTO author (name, email)
SELECT first.name || ' ' || last.name, lower(first.name || '.' || last.name) || '@example.org'
FROM unnest(array['Ada', 'Alan', 'Barbara', 'Claude', 'Donald', 'Edsger', 'Frances', 'Grace', 'John', 'Margaret'])
         AS first (name),
     unnest(array['Allen', 'Codd', 'Date', 'Gray', 'Hamilton', 'Hopper', 'Knuth', 'Liskov', 'Lovelace', 'Turing',
                  'Backus', 'Dijkstra', 'Hoare', 'Kay', 'Lamport', 'McCarthy', 'Ritchie', 'Shannon', 'Stonebraker', 'Wirth'])
         AS last (name);

INSERT INTO article (title, body, published_at, author_id)
SELECT 'On ' || (array['locks', 'indexes', 'pools', 'caches', 'replicas', 'joins', 'logs', 'queues'])[1 + n % 8]
           || ', part ' || n,
       repeat('Measure first, then change one thing, then measure again. ', 3 + n % 10),
       timestamptz '2024-01-01 00:00:00+00' + n * interval '97 minutes',
       1 + (n * 7919) % 200
FROM generate_series(1, 5000) AS n;

COMMIT;

ANALYZE author, article;
