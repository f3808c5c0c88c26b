-- The labelled set's data: a shop with a blog, five million rows, skewed as real ones are (few users order most, most
-- jobs are done, most coupons are null). The same on every run: one session, one seed, no parallel workers.
SET max_parallel_workers_per_gather = 0;
SET synchronous_commit = off;
SET maintenance_work_mem = '256MB';
SET work_mem = '64MB';
SELECT setseed(0.42);
CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE EXTENSION IF NOT EXISTS hypopg;

-- Few get most of it: `skew(n)` is 1 most often.
CREATE FUNCTION skew(n integer) RETURNS integer LANGUAGE sql VOLATILE AS
$$ SELECT least(1 + floor(n * power(random(), 3))::integer, n) $$;
CREATE FUNCTION any_of(n integer) RETURNS integer LANGUAGE sql VOLATILE AS
$$ SELECT 1 + floor(n * random())::integer $$;

CREATE UNLOGGED TABLE countries (code char(2) PRIMARY KEY, name text NOT NULL, region text NOT NULL);
INSERT INTO countries SELECT chr(65 + i / 26) || chr(65 + i % 26), 'Country ' || i, (ARRAY['EU','NA','AS','AF'])[1 + i % 4]
FROM generate_series(0, 199) i;

CREATE UNLOGGED TABLE users (
    id bigint PRIMARY KEY, email text NOT NULL, username text NOT NULL, country char(2) NOT NULL, status text NOT NULL,
    is_staff boolean NOT NULL, karma integer NOT NULL, referrer_id bigint, created_at timestamptz NOT NULL,
    last_login timestamptz);
INSERT INTO users
SELECT i, 'User' || i || '@' || (ARRAY['example.com','mail.org','corp.net'])[any_of(3)],
       (ARRAY['anna','bert','carla','dora','emil','frida','gustav','hanna'])[any_of(8)] || substr(md5(i::text), 1, 3) || i,
       chr(65 + skew(7) ) || chr(64 + skew(20)),
       CASE WHEN r < 0.96 THEN 'active' WHEN r < 0.995 THEN 'suspended' ELSE 'deleted' END,
       random() < 0.003, floor(exp(random() * 9))::integer,
       CASE WHEN random() < 0.2 THEN skew(200000) END,
       timestamptz '2019-01-01' + i * interval '15 min',
       CASE WHEN random() < 0.7 THEN timestamptz '2024-12-31' - power(random(), 3) * interval '1500 days' END
FROM (SELECT i, random() r FROM generate_series(1, 200000) i OFFSET 0) s;
ALTER TABLE users ADD UNIQUE (username);

CREATE UNLOGGED TABLE articles (
    id bigint PRIMARY KEY, author_id bigint NOT NULL, category_id integer NOT NULL, slug text NOT NULL, title text NOT NULL,
    body text NOT NULL, published boolean NOT NULL, published_at timestamptz, deleted_at timestamptz, views integer NOT NULL,
    tags text[] NOT NULL, meta jsonb NOT NULL);
INSERT INTO articles
SELECT i, skew(20000), skew(60), 'article-' || md5(i::text),
       (ARRAY['Notes','Thoughts','Report','Guide','Review'])[any_of(5)] || ' on ' || substr(md5((i * 7)::text), 1, 8),
       (SELECT string_agg((ARRAY['river','weir','stone','water','mill','bridge','flood','fish','salmon','lock','gate','canal',
        'boat','ferry','harbour','tide','delta','spring','brook','lake','marsh','reed','otter','heron','kingfisher','dam',
        'sluice','turbine','current','eddy'])[1 + (abs(hashint4(i * 31 + w)) % 30)], ' ')
        FROM generate_series(1, 18) w) || ' w' || (i % 4000),
       random() < 0.93, CASE WHEN random() < 0.93 THEN timestamptz '2020-01-01' + random() * interval '1800 days' END,
       CASE WHEN random() < 0.01 THEN timestamptz '2024-01-01' + random() * interval '300 days' END,
       floor(exp(random() * 11))::integer,
       ARRAY['tag' || skew(3000), 'tag' || skew(3000), 'tag' || any_of(3000)],
       jsonb_build_object('lang', (ARRAY['en','en','en','en','de','fr','es'])[any_of(7)], 'source', 'feed' || any_of(5000),
                          'score', any_of(100))
FROM generate_series(1, 250000) i;
ALTER TABLE articles ADD UNIQUE (slug);

CREATE UNLOGGED TABLE comments (
    id bigint PRIMARY KEY, article_id bigint NOT NULL, user_id bigint NOT NULL, parent_id bigint, flagged boolean NOT NULL,
    votes integer NOT NULL, body text NOT NULL, created_at timestamptz NOT NULL);
INSERT INTO comments
SELECT i, skew(250000), skew(200000), CASE WHEN i > 10 AND random() < 0.2 THEN any_of(i - 1) END, random() < 0.004,
       floor(exp(random() * 6))::integer - 1, 'comment ' || md5(i::text) || ' ' || md5((i + 1)::text),
       timestamptz '2020-06-01' + random() * interval '1600 days'
FROM generate_series(1, 1000000) i;
CREATE INDEX comments_article_id_idx ON comments (article_id);

CREATE UNLOGGED TABLE orders (
    id bigint PRIMARY KEY, user_id bigint NOT NULL, status text NOT NULL, total numeric(10,2) NOT NULL, country char(2) NOT NULL,
    coupon text, reference uuid NOT NULL, created_at timestamptz NOT NULL, paid_at timestamptz, shipped_on date);
INSERT INTO orders
SELECT i, skew(200000),
       CASE WHEN r < 0.93 THEN 'done' WHEN r < 0.98 THEN 'shipped' WHEN r < 0.995 THEN 'pending' ELSE 'failed' END,
       round((5 + exp(random() * 7))::numeric, 2), chr(65 + skew(7)) || chr(64 + skew(20)),
       CASE WHEN random() < 0.03 THEN 'SAVE' || any_of(400) END, md5(i::text)::uuid,
       timestamptz '2021-01-01' + random() * interval '1460 days',
       CASE WHEN random() < 0.98 THEN timestamptz '2021-01-01' + random() * interval '1460 days' END,
       CASE WHEN r < 0.98 THEN date '2021-01-01' + any_of(1460) END
FROM (SELECT i, random() r FROM generate_series(1, 800000) i OFFSET 0) s;
CREATE INDEX orders_status_idx ON orders (status);

CREATE UNLOGGED TABLE order_items (
    id bigint PRIMARY KEY, order_id bigint NOT NULL, product_id bigint NOT NULL, quantity integer NOT NULL,
    price numeric(10,2) NOT NULL);
INSERT INTO order_items
SELECT i, any_of(800000), skew(60000), skew(9), round((1 + exp(random() * 5))::numeric, 2) FROM generate_series(1, 1500000) i;

CREATE UNLOGGED TABLE products (
    id bigint PRIMARY KEY, sku text NOT NULL, name text NOT NULL, price numeric(10,2) NOT NULL, category_id integer NOT NULL,
    stock integer NOT NULL, discontinued boolean NOT NULL, attributes jsonb NOT NULL, labels text[] NOT NULL,
    updated_at timestamptz NOT NULL);
INSERT INTO products
SELECT i, 'SKU-' || upper(substr(md5(i::text), 1, 10)),
       initcap((ARRAY['red','blue','old','fine','grand','small'])[any_of(6)] || ' ' || substr(md5((i * 3)::text), 1, 7) || ' '
        || (ARRAY['chair','lamp','table','shelf','clock'])[any_of(5)]),
       round((1 + exp(random() * 7))::numeric, 2), skew(200), any_of(500) - 1, random() < 0.02,
       jsonb_build_object('color', (ARRAY['red','green','blue','black','white'])[any_of(5)], 'brand', 'brand' || any_of(2000),
        'size', any_of(40), 'origin', jsonb_build_object('country', chr(64 + skew(26)) || chr(64 + any_of(26)))),
       ARRAY['l' || any_of(2000), 'l' || skew(2000)],
       timestamptz '2024-01-01' + random() * interval '360 days'
FROM generate_series(1, 60000) i;
ALTER TABLE products ADD UNIQUE (sku);

-- Only appended to: the time follows the order of rows.
CREATE UNLOGGED TABLE events (
    id bigint PRIMARY KEY, at timestamptz NOT NULL, kind text NOT NULL, user_id bigint, session_id text NOT NULL,
    payload jsonb NOT NULL);
INSERT INTO events
SELECT i, timestamptz '2024-01-01' + i * interval '20 s', 'kind' || skew(40), CASE WHEN random() < 0.6 THEN skew(200000) END,
       md5((i / 12)::text), jsonb_build_object('path', '/p/' || skew(20000), 'ms', any_of(900))
FROM generate_series(1, 1200000) i;

CREATE UNLOGGED TABLE follows (
    follower_id bigint NOT NULL, followed_id bigint NOT NULL, created_at timestamptz NOT NULL,
    PRIMARY KEY (follower_id, followed_id));
INSERT INTO follows
SELECT any_of(200000), skew(200000), timestamptz '2021-01-01' + random() * interval '1400 days' FROM generate_series(1, 500000)
ON CONFLICT DO NOTHING;

CREATE UNLOGGED TABLE jobs (
    id bigint PRIMARY KEY, queue text NOT NULL, state text NOT NULL, priority integer NOT NULL, run_at timestamptz NOT NULL,
    locked_by text, attempts integer NOT NULL);
INSERT INTO jobs
SELECT i, 'queue' || skew(8), CASE WHEN r < 0.994 THEN 'done' WHEN r < 0.998 THEN 'queued' ELSE 'dead' END, any_of(10),
       timestamptz '2024-01-01' + random() * interval '360 days', CASE WHEN r > 0.9975 AND r < 0.998 THEN 'w' || any_of(20) END,
       skew(5)
FROM (SELECT i, random() r FROM generate_series(1, 400000) i OFFSET 0) s;

-- Two parents of children without an index on the foreign key, and one with.
CREATE UNLOGGED TABLE tickets (id bigint PRIMARY KEY, subject text NOT NULL, opened_by bigint NOT NULL);
INSERT INTO tickets SELECT i, 'ticket ' || i, skew(200000) FROM generate_series(1, 50000) i;
CREATE UNLOGGED TABLE ticket_messages (
    id bigint PRIMARY KEY, ticket_id bigint NOT NULL REFERENCES tickets ON DELETE CASCADE, body text NOT NULL);
INSERT INTO ticket_messages SELECT i, skew(50000), 'message ' || md5(i::text) FROM generate_series(1, 500000) i;
CREATE UNLOGGED TABLE ticket_files (
    id bigint PRIMARY KEY, ticket_id bigint NOT NULL REFERENCES tickets ON DELETE CASCADE, name text NOT NULL);
INSERT INTO ticket_files SELECT i, skew(50000), 'file' || i FROM generate_series(1, 100000) i;
CREATE INDEX ticket_files_ticket_id_idx ON ticket_files (ticket_id);

-- The planner does not know that `kind` and `part` go together, and nobody has analyzed it since it grew.
CREATE UNLOGGED TABLE readings (id bigint PRIMARY KEY, sensor integer NOT NULL, kind integer NOT NULL, value real NOT NULL)
    WITH (autovacuum_enabled = off);
INSERT INTO readings SELECT i, any_of(10), 1, random() FROM generate_series(1, 500) i;
ANALYZE readings;
INSERT INTO readings SELECT i, any_of(5000), any_of(20), random() FROM generate_series(501, 300000) i;

-- A b-tree serves LIKE 'abc%' here.
CREATE UNLOGGED TABLE codes (id bigint PRIMARY KEY, code text COLLATE "C" NOT NULL, note text NOT NULL);
INSERT INTO codes SELECT i, upper(substr(md5(i::text), 1, 12)), 'note ' || i FROM generate_series(1, 200000) i;

VACUUM ANALYZE countries, users, articles, comments, orders, order_items, products, events, follows, jobs, tickets,
    ticket_messages, ticket_files, codes;
