-- The second labelled set's data: a service with many tenants, written with an ORM: varchar, enums, timestamps without time
-- zone, soft deletes, a partitioned log, a tree. Made after the advice was, to see what it does with what it was not made on.
SET max_parallel_workers_per_gather = 0;
SET synchronous_commit = off;
SET maintenance_work_mem = '256MB';
SET work_mem = '64MB';
SELECT setseed(0.77);
CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE EXTENSION IF NOT EXISTS hypopg;
CREATE EXTENSION IF NOT EXISTS citext;

CREATE FUNCTION skew(n integer) RETURNS integer LANGUAGE sql VOLATILE AS
$$ SELECT least(1 + floor(n * power(random(), 3))::integer, n) $$;
CREATE FUNCTION any_of(n integer) RETURNS integer LANGUAGE sql VOLATILE AS
$$ SELECT 1 + floor(n * random())::integer $$;
CREATE TYPE ticket_state AS ENUM ('new', 'open', 'waiting', 'solved', 'closed');

CREATE UNLOGGED TABLE tenant (id serial PRIMARY KEY, name varchar(80) NOT NULL, plan varchar(20) NOT NULL, settings jsonb NOT NULL);
INSERT INTO tenant (name, plan, settings) SELECT 'Tenant ' || i, (ARRAY['free','team','pro'])[any_of(3)], '{}'
FROM generate_series(1, 300) i;

CREATE UNLOGGED TABLE account (
    id serial PRIMARY KEY, tenant_id integer NOT NULL, email citext NOT NULL, full_name varchar(120) NOT NULL, phone varchar(30),
    is_active boolean NOT NULL DEFAULT true, is_admin boolean NOT NULL, deleted_at timestamp, created_at timestamp NOT NULL,
    locale varchar(8) NOT NULL, manager_id integer, UNIQUE (tenant_id, email));
INSERT INTO account (tenant_id, email, full_name, phone, is_active, is_admin, deleted_at, created_at, locale, manager_id)
SELECT skew(300), 'p' || i || '@site' || any_of(4000) || '.com', initcap(substr(md5(i::text), 1, 5)) || ' ' || initcap(substr(md5((i*9)::text), 1, 7)),
       CASE WHEN random() < 0.5 THEN '+49' || (1000000 + i * 7) END, random() < 0.97, random() < 0.01,
       CASE WHEN random() < 0.02 THEN timestamp '2023-01-01' + random() * interval '700 days' END,
       timestamp '2018-01-01' + random() * interval '2500 days', (ARRAY['en','en','de','fr','pt-BR'])[any_of(5)],
       CASE WHEN i > 50 THEN any_of(least(i - 1, 20000)) END
FROM generate_series(1, 300000) i;

CREATE UNLOGGED TABLE project (
    id serial PRIMARY KEY, tenant_id integer NOT NULL, owner_id integer NOT NULL, code varchar(16) NOT NULL, name varchar(200) NOT NULL,
    parent_id integer, archived boolean NOT NULL, budget numeric(12,2), starts_on date NOT NULL, ends_on date, labels varchar[] NOT NULL,
    UNIQUE (tenant_id, code));
INSERT INTO project (tenant_id, owner_id, code, name, parent_id, archived, budget, starts_on, ends_on, labels)
SELECT skew(300), any_of(300000), 'P-' || i, 'Project ' || substr(md5(i::text), 1, 12), CASE WHEN i > 100 AND random() < 0.7 THEN any_of(i - 1) END,
       random() < 0.6, round((random() * 100000)::numeric, 2), date '2019-01-01' + any_of(2200),
       CASE WHEN random() < 0.8 THEN date '2020-01-01' + any_of(2200) END, ARRAY['a' || any_of(500), 'b' || any_of(800)]
FROM generate_series(1, 80000) i;

CREATE UNLOGGED TABLE ticket (
    id bigserial PRIMARY KEY, tenant_id integer NOT NULL, project_id integer NOT NULL, reporter_id integer NOT NULL,
    assignee_id integer, state ticket_state NOT NULL, priority smallint NOT NULL, title varchar(200) NOT NULL, description text NOT NULL,
    search tsvector, custom jsonb NOT NULL, due_on date, created_at timestamp NOT NULL, updated_at timestamp NOT NULL, external_ref varchar(40));
INSERT INTO ticket (tenant_id, project_id, reporter_id, assignee_id, state, priority, title, description, search, custom, due_on, created_at, updated_at,
                    external_ref)
SELECT t, p, any_of(300000), CASE WHEN random() < 0.9 THEN skew(300000) END,
       (CASE WHEN r < 0.90 THEN 'closed' WHEN r < 0.96 THEN 'solved' WHEN r < 0.985 THEN 'open' WHEN r < 0.997 THEN 'waiting' ELSE 'new' END)::ticket_state,
       any_of(5), 'Ticket ' || substr(md5(i::text), 1, 10) || ' ' || w, 'It says ' || md5((i * 5)::text) || ' ' || w,
       to_tsvector('simple', w || ' x' || i % 9000),
       jsonb_build_object('severity', any_of(5), 'browser', (ARRAY['firefox','chrome','safari'])[any_of(3)], 'build', 'b' || any_of(20000)),
       CASE WHEN random() < 0.3 THEN date '2024-01-01' + any_of(400) END, c, c + random() * interval '30 days',
       CASE WHEN random() < 0.04 THEN 'EXT-' || i END
FROM (SELECT i, skew(300) t, skew(80000) p, random() r, timestamp '2019-01-01' + i * interval '4 min' + random() * interval '2 days' c,
             (ARRAY['printer','login','invoice','crash','slow','export','import','mobile','search','report'])[any_of(10)] w
      FROM generate_series(1, 700000) i OFFSET 0) s;
CREATE INDEX ticket_tenant_id_idx ON ticket (tenant_id);
CREATE INDEX ticket_search_idx ON ticket USING gin (search);

CREATE UNLOGGED TABLE ticket_event (
    id bigserial PRIMARY KEY, ticket_id bigint NOT NULL REFERENCES ticket ON DELETE CASCADE, actor_id integer, verb varchar(24) NOT NULL,
    data jsonb NOT NULL, created_at timestamp NOT NULL, seen boolean NOT NULL);
INSERT INTO ticket_event (ticket_id, actor_id, verb, data, created_at, seen)
SELECT skew(700000), CASE WHEN random() < 0.8 THEN skew(300000) END, (ARRAY['comment','comment','comment','assign','state','tag'])[any_of(6)],
       jsonb_build_object('n', any_of(1000)), timestamp '2019-01-01' + i * interval '1 min', random() < 0.995
FROM generate_series(1, 1500000) i;

CREATE UNLOGGED TABLE attachment (
    id bigserial PRIMARY KEY, owner_type varchar(20) NOT NULL, owner_id bigint NOT NULL, filename varchar(120) NOT NULL, bytes bigint NOT NULL,
    sha256 varchar(64) NOT NULL, created_at timestamp NOT NULL);
INSERT INTO attachment (owner_type, owner_id, filename, bytes, sha256, created_at)
SELECT (ARRAY['ticket','ticket','ticket','project','account'])[any_of(5)], any_of(300000), 'file_' || i || (ARRAY['.png','.pdf','.txt'])[any_of(3)],
       floor(exp(random() * 16))::bigint, md5(i::text) || md5((i+1)::text), timestamp '2020-01-01' + random() * interval '1500 days'
FROM generate_series(1, 400000) i;

CREATE UNLOGGED TABLE booking (id serial PRIMARY KEY, room_id integer NOT NULL, during tsrange NOT NULL, account_id integer NOT NULL);
INSERT INTO booking (room_id, during, account_id)
SELECT any_of(800), tsrange(s, s + interval '1 hour' * any_of(5)), any_of(300000)
FROM (SELECT timestamp '2022-01-01' + random() * interval '1000 days' s FROM generate_series(1, 200000) OFFSET 0) s;

CREATE TABLE audit (id bigint NOT NULL, at timestamp NOT NULL, account_id integer NOT NULL, action varchar(30) NOT NULL, ip inet)
    PARTITION BY RANGE (at);
CREATE TABLE audit_2023 PARTITION OF audit FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
CREATE TABLE audit_2024 PARTITION OF audit FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
INSERT INTO audit SELECT i, timestamp '2023-01-01' + i * interval '100 s', skew(300000), 'action' || skew(30), '10.0.0.1'::inet + any_of(60000)
FROM generate_series(1, 620000) i;

CREATE UNLOGGED TABLE member (project_id integer NOT NULL, account_id integer NOT NULL, role varchar(12) NOT NULL, PRIMARY KEY (project_id, account_id));
INSERT INTO member SELECT skew(80000), any_of(300000), (ARRAY['viewer','editor','owner'])[skew(3)] FROM generate_series(1, 400000)
ON CONFLICT DO NOTHING;

CREATE UNLOGGED TABLE currency (code char(3) PRIMARY KEY, rate numeric NOT NULL);
INSERT INTO currency SELECT chr(65 + i / 26) || chr(65 + i % 26) || 'X', random() FROM generate_series(0, 160) i;

CREATE VIEW open_ticket AS SELECT t.*, a.full_name AS assignee FROM ticket t LEFT JOIN account a ON a.id = t.assignee_id
WHERE t.state IN ('new', 'open', 'waiting');

VACUUM ANALYZE;
