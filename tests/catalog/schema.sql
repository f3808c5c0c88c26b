-- What tests/cases/effect.txt speaks of. tests/cases/effect_catalog.txt says the same without a server.
CREATE TABLE users (id int PRIMARY KEY, name text);
CREATE TABLE posts (id int PRIMARY KEY, user_id int REFERENCES users ON DELETE CASCADE, body text);
CREATE TABLE likes (post_id int REFERENCES posts ON UPDATE SET NULL);
CREATE TABLE tags (id int PRIMARY KEY);
CREATE TABLE post_tags (tag_id int REFERENCES tags);
CREATE TABLE audit (note text);

CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO audit VALUES (''x''); RETURN NULL; END';
CREATE TABLE watched (a int);
CREATE TRIGGER note AFTER INSERT ON watched EXECUTE FUNCTION note();
CREATE TABLE unwatched (a int);
CREATE TRIGGER note AFTER INSERT ON unwatched EXECUTE FUNCTION note();
ALTER TABLE unwatched DISABLE TRIGGER note;
CREATE TABLE ruled (a int);
CREATE RULE also AS ON INSERT TO ruled DO ALSO INSERT INTO audit VALUES ('x');
CREATE TABLE searched (a text, words tsvector);
CREATE TRIGGER words BEFORE INSERT ON searched FOR EACH ROW
  EXECUTE FUNCTION tsvector_update_trigger(words, 'pg_catalog.english', a);

CREATE TABLE events (at date, n int) PARTITION BY RANGE (at);
CREATE TABLE events_old PARTITION OF events FOR VALUES FROM ('2000-01-01') TO ('2020-01-01') PARTITION BY RANGE (at);
CREATE TABLE events_2019 PARTITION OF events_old FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
CREATE TABLE events_new PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2100-01-01');
CREATE TABLE measures (at date, n int) PARTITION BY RANGE (at);
CREATE TABLE measures_new PARTITION OF measures DEFAULT;
CREATE TRIGGER note AFTER INSERT ON measures_new EXECUTE FUNCTION note();
CREATE TABLE things (a int);
CREATE TABLE big_things () INHERITS (things);
CREATE TABLE huge_things () INHERITS (big_things);

CREATE FUNCTION counter() RETURNS int LANGUAGE sql AS 'INSERT INTO audit VALUES (1); SELECT 1';
CREATE FUNCTION title(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT upper($1)';
CREATE FUNCTION title(text, int) RETURNS text LANGUAGE sql AS 'SELECT upper($1)';
CREATE FUNCTION lookup(int DEFAULT 0, VARIADIC int[] DEFAULT '{}') RETURNS int STABLE LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION own_add(int, int) RETURNS int LANGUAGE sql AS 'SELECT $1 + $2';
CREATE AGGREGATE own_sum (int) (SFUNC = own_add, STYPE = int);

CREATE VIEW user_posts AS SELECT u.id, u.name, p.body FROM users u JOIN posts p ON p.user_id = u.id;
CREATE VIEW deep AS SELECT * FROM user_posts WHERE id IN (SELECT post_id FROM likes);
CREATE VIEW plain AS SELECT id, name FROM users;
CREATE VIEW recent AS SELECT *, now() AS at FROM posts;
CREATE VIEW dated AS SELECT current_date AS today, n FROM events;
CREATE VIEW dice AS SELECT random() AS roll;
CREATE VIEW counted AS SELECT counter() AS n;
CREATE VIEW looked AS SELECT lookup(1) AS n;
CREATE VIEW server AS SELECT pg_is_in_recovery() AS r, pg_postmaster_start_time() AS s;
CREATE VIEW locked AS SELECT * FROM users FOR UPDATE;
CREATE VIEW instead AS SELECT a FROM things;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER instead INSTEAD OF INSERT ON instead FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM posts;
CREATE MATERIALIZED VIEW counts AS SELECT n FROM counted;

CREATE TABLE owners (name text);
CREATE TABLE secrets (owner text, a int);
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON secrets USING (owner IN (SELECT name FROM owners));
CREATE TABLE tenants (tenant text, a int);
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON tenants USING (tenant = current_setting('my.tenant', true));
CREATE VIEW as_invoker WITH (security_invoker) AS SELECT a FROM secrets;
CREATE VIEW tenants_as_invoker WITH (security_invoker) AS SELECT a FROM tenants;
CREATE UNLOGGED TABLE scratch (a int);
CREATE SEQUENCE numbers;
CREATE FOREIGN DATA WRAPPER elsewhere;
CREATE SERVER far FOREIGN DATA WRAPPER elsewhere;
CREATE FOREIGN TABLE remote (a int) SERVER far;
CREATE TABLE defaulted (a int DEFAULT counter());
CREATE TABLE serials (id serial, a int DEFAULT 7, b timestamptz DEFAULT now());

-- As uuid-ossp has it, which need not be installed: written in C, and known to write nothing.
CREATE FUNCTION uuid_generate_v4() RETURNS uuid LANGUAGE internal AS 'gen_random_uuid';
CREATE FUNCTION pgv() RETURNS uuid LANGUAGE internal AS 'gen_random_uuid';
CREATE TABLE keyed (id uuid DEFAULT uuid_generate_v4());
CREATE TABLE other_keyed (id uuid DEFAULT pgv());

CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE FUNCTION is_fine(int) RETURNS boolean LANGUAGE sql AS 'SELECT counter() > 0';
CREATE DOMAIN checked AS int CHECK (is_fine(VALUE));
CREATE TABLE checks (a checked);
CREATE TYPE pair AS (a int, b int);
CREATE FUNCTION pair_near(pair, pair) RETURNS boolean STABLE LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR ### (LEFTARG = pair, RIGHTARG = pair, FUNCTION = pair_near);
CREATE FUNCTION pair_of(text) RETURNS pair STABLE LANGUAGE sql AS 'SELECT (1, 2)::pair';
CREATE CAST (text AS pair) WITH FUNCTION pair_of(text);
CREATE TABLE people (first text, last text);
CREATE FUNCTION full_name(people) RETURNS text LANGUAGE sql AS 'SELECT $1.first || $1.last';

CREATE FUNCTION of_any(anyelement) RETURNS int LANGUAGE sql AS 'SELECT counter()';
CREATE FUNCTION of_record(record) RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
CREATE DOMAIN person AS people;
CREATE FUNCTION of_domain(person) RETURNS int LANGUAGE sql AS 'SELECT counter()';
CREATE FUNCTION of_number(int) RETURNS int LANGUAGE sql AS 'SELECT counter()';
DO $$ BEGIN
  -- Grammar since PostgreSQL 17.
  EXECUTE 'CREATE FUNCTION "json_value"(jsonb, text) RETURNS text LANGUAGE sql AS $f$SELECT counter()::text$f$';
END $$;

CREATE SCHEMA other;
CREATE TABLE other.users (id int);
CREATE TABLE other.only_there (id int);
CREATE FUNCTION other.title(text) RETURNS text LANGUAGE sql AS 'SELECT $1';

CREATE TYPE odd AS (a int);
CREATE FUNCTION odd_eq(odd, odd) RETURNS boolean STABLE LANGUAGE sql AS 'SELECT ($1).a = ($2).a';
CREATE FUNCTION odd_less(odd, odd) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT ($1).a < ($2).a';
CREATE FUNCTION odd_order(odd, odd) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT ($1).a - ($2).a';
CREATE OPERATOR === (LEFTARG = odd, RIGHTARG = odd, FUNCTION = odd_eq);
CREATE OPERATOR <<< (LEFTARG = odd, RIGHTARG = odd, FUNCTION = odd_less);
CREATE OPERATOR CLASS odd_ops DEFAULT FOR TYPE odd USING btree AS
  OPERATOR 1 <<<, OPERATOR 3 ===, FUNCTION 1 odd_order(odd, odd);
CREATE TABLE odds (o odd);
CREATE VIEW grouped AS SELECT o, count(*) FROM odds GROUP BY o;

CREATE DOMAIN nested AS checked;
CREATE DOMAIN listed AS checked[];
CREATE TYPE holder AS (v nested);
CREATE TYPE checked_range AS RANGE (subtype = checked);
CREATE TABLE held (v nested);
CREATE TABLE unheld (v positive);
