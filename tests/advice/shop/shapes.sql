-- The labelled set's statements. Each with the values that a client would bind, and the indexes that a person would
-- think of; `prove.py` creates each of them (and whatever Weir advises besides) and measures. What helps is what the
-- measurement says, not what stands here. ` & ` joins indexes that are created together.

-- name: eq_unindexed_fk
-- values: ["1200"]
-- try: orders (user_id)
SELECT id, total FROM orders WHERE user_id = $1

-- name: eq_and_order_limit
-- values: ["7", "20"]
-- try: orders (user_id)
-- try: orders (user_id, created_at)
SELECT id, total, created_at FROM orders WHERE user_id = $1 ORDER BY created_at DESC LIMIT $2

-- name: eq_rare_user_order
-- values: ["150000"]
-- try: comments (user_id)
-- try: comments (user_id, created_at)
SELECT * FROM comments WHERE user_id = $1 ORDER BY created_at DESC

-- name: two_equalities
-- values: ["9", "pending"]
-- try: orders (user_id)
-- try: orders (user_id, status)
SELECT id FROM orders WHERE user_id = $1 AND status = $2

-- name: eq_and_range
-- values: ["3", "2024-06-01"]
-- try: orders (user_id)
-- try: orders (user_id, created_at)
SELECT id, created_at, total FROM orders WHERE user_id = $1 AND created_at >= $2

-- name: range_narrow
-- values: ["2023-03-01", "2023-03-02"]
-- try: orders (created_at)
SELECT count(*), sum(total) FROM orders WHERE created_at >= $1 AND created_at < $2

-- name: range_wide
-- values: ["2021-06-01"]
-- try: orders (created_at)
SELECT count(*), sum(total) FROM orders WHERE created_at >= $1

-- name: between_price
-- values: ["700.00", "702.00"]
-- try: products (price)
SELECT id, name FROM products WHERE price BETWEEN $1 AND $2

-- name: latest_orders
-- values: ["10"]
-- try: orders (created_at)
SELECT id, total FROM orders ORDER BY created_at DESC LIMIT $1

-- name: latest_published
-- values: []
-- try: articles (published_at)
-- try: articles (published_at DESC NULLS LAST)
-- try: articles (published_at DESC NULLS LAST) WHERE published
-- try: articles (published, published_at)
SELECT id, title FROM articles WHERE published ORDER BY published_at DESC NULLS LAST LIMIT 10

-- name: mixed_direction_order
-- values: ["25"]
-- try: products (category_id, price DESC)
-- try: products (category_id)
SELECT id, name FROM products ORDER BY category_id, price DESC LIMIT $1

-- name: keyset_row_comparison
-- values: ["2023-05-05 10:00", "400000", "20"]
-- try: orders (created_at)
-- try: orders (created_at, id)
SELECT id, created_at FROM orders WHERE (created_at, id) < ($1, $2) ORDER BY created_at DESC, id DESC LIMIT $3

-- name: offset_paging
-- values: ["40", "20"]
-- try: articles (author_id)
-- try: articles (author_id, published_at)
SELECT id, title FROM articles WHERE author_id = $1 ORDER BY published_at DESC LIMIT $2 OFFSET 20

-- name: deep_offset_whole_table
-- values: []
-- try: comments (created_at)
SELECT id FROM comments ORDER BY created_at OFFSET 700000 LIMIT 10

-- name: min_of_column
-- values: []
-- try: orders (created_at)
SELECT min(created_at) FROM orders

-- name: max_for_user
-- values: ["1500"]
-- try: comments (user_id)
-- try: comments (user_id, created_at)
SELECT max(created_at) FROM comments WHERE user_id = $1

-- name: in_list
-- values: ["11000", "12000", "13000"]
-- try: comments (user_id)
SELECT id, body FROM comments WHERE user_id IN ($1, $2, $3)

-- name: any_array
-- values: ["{5000,6000,7000,8000}"]
-- try: order_items (product_id)
SELECT order_id, quantity FROM order_items WHERE product_id = ANY ($1)

-- name: is_null_rare
-- values: []
-- try: orders (user_id)
-- try: orders (id) WHERE paid_at IS NULL
-- try: orders (paid_at)
SELECT id FROM orders WHERE paid_at IS NULL AND total > 1000

-- name: is_null_common
-- values: []
-- try: comments (parent_id)
SELECT count(*) FROM comments WHERE parent_id IS NULL

-- name: not_null_rare
-- values: []
-- try: articles (deleted_at)
-- try: articles (deleted_at) WHERE deleted_at IS NOT NULL
SELECT id, title FROM articles WHERE deleted_at IS NOT NULL ORDER BY deleted_at DESC LIMIT 50

-- name: rare_boolean
-- values: []
-- try: comments (id) WHERE flagged
-- try: comments (flagged)
-- try: comments (created_at) WHERE flagged
SELECT id, body FROM comments WHERE flagged ORDER BY created_at DESC LIMIT 100

-- name: common_boolean
-- values: []
-- try: articles (published)
SELECT count(*) FROM articles WHERE published

-- name: rare_status_literal
-- values: []
-- try: jobs (run_at) WHERE state = 'queued'
-- try: jobs (state)
-- try: jobs (state, run_at)
SELECT id, queue FROM jobs WHERE state = 'queued' AND locked_by IS NULL ORDER BY run_at LIMIT 10

-- name: rare_status_queue
-- values: ["queue3", "2024-12-01"]
-- try: jobs (state)
-- try: jobs (queue, state, run_at)
-- try: jobs (queue, run_at) WHERE state = 'queued'
SELECT id FROM jobs WHERE queue = $1 AND state = 'queued' AND run_at <= $2 ORDER BY priority DESC, run_at LIMIT 5

-- name: skip_locked
-- values: []
-- try: jobs (state, run_at)
-- try: jobs (run_at) WHERE state = 'queued'
SELECT id FROM jobs WHERE state = 'queued' ORDER BY run_at LIMIT 1 FOR UPDATE SKIP LOCKED

-- name: common_status
-- values: ["done"]
-- try: jobs (state)
SELECT count(*), max(attempts) FROM jobs WHERE state = $1

-- name: lower_email
-- values: ["user777@example.com"]
-- try: users (lower(email))
SELECT id, username FROM users WHERE lower(email) = $1

-- name: lower_both_sides
-- values: ["User778@Mail.org"]
-- try: users (lower(email))
SELECT id FROM users WHERE lower(email) = lower($1)

-- name: exact_email
-- values: ["User779@example.com"]
-- try: users (email)
SELECT id, username FROM users WHERE email = $1

-- name: like_prefix
-- values: ["User4242%"]
-- try: users (email text_pattern_ops)
SELECT id, email FROM users WHERE email LIKE $1

-- name: like_prefix_c_collation
-- values: ["ABCD%"]
-- try: codes (code)
SELECT id FROM codes WHERE code LIKE $1

-- name: like_infix
-- values: ["%kingfisher w1234%"]
-- try: articles USING gin (body gin_trgm_ops)
SELECT id, title FROM articles WHERE body LIKE $1

-- name: ilike_infix_title
-- values: ["%On 4fa3%"]
-- try: articles USING gin (title gin_trgm_ops)
SELECT id, title FROM articles WHERE title ILIKE $1

-- name: like_too_short
-- values: ["%a%"]
-- try: users USING gin (username gin_trgm_ops)
SELECT count(*) FROM users WHERE username LIKE $1

-- name: regex_product
-- values: ["chair|shelf00"]
-- try: products USING gin (name gin_trgm_ops)
SELECT count(*) FROM products WHERE name ~ 'ab12.*Lamp'

-- name: json_text_equality
-- values: ["feed123"]
-- try: articles ((meta ->> 'source'))
SELECT id, title FROM articles WHERE meta ->> 'source' = $1

-- name: json_contains
-- values: ["{\"source\": \"feed99\"}"]
-- try: articles USING gin (meta jsonb_path_ops)
-- try: articles USING gin (meta)
SELECT id, title FROM articles WHERE meta @> $1

-- name: json_contains_common
-- values: ["{\"lang\": \"en\"}"]
-- try: articles USING gin (meta jsonb_path_ops)
SELECT count(*) FROM articles WHERE meta @> $1

-- name: json_nested_path
-- values: ["GB"]
-- try: products ((attributes #>> '{origin,country}'))
-- try: products (((attributes -> 'origin') ->> 'country'))
SELECT id FROM products WHERE attributes -> 'origin' ->> 'country' = $1

-- name: json_number_range
-- values: ["899"]
-- try: events (((payload ->> 'ms')::integer))
SELECT count(*) FROM events WHERE (payload ->> 'ms')::integer > $1

-- name: json_key_exists
-- values: []
-- try: products USING gin (attributes)
SELECT count(*) FROM products WHERE attributes ? 'voltage'

-- name: array_contains
-- values: ["{tag2500}"]
-- try: articles USING gin (tags)
SELECT id, title FROM articles WHERE tags @> $1

-- name: array_overlap
-- values: ["{l1500,l1600}"]
-- try: products USING gin (labels)
SELECT id FROM products WHERE labels && $1

-- name: array_any_element
-- values: ["tag2900"]
-- try: articles USING gin (tags)
SELECT count(*) FROM articles WHERE $1 = ANY (tags)

-- name: full_text
-- values: ["w1777"]
-- try: articles USING gin (to_tsvector('english', body))
SELECT id, title FROM articles WHERE to_tsvector('english', body) @@ to_tsquery('english', $1)

-- name: join_user_orders
-- values: ["4777"]
-- try: orders (user_id)
SELECT o.id, o.total FROM users u JOIN orders o ON o.user_id = u.id WHERE u.username = (SELECT v.username FROM users v WHERE v.id = $1)

-- name: join_by_unique
-- values: ["article-c4ca4238a0b923820dcc509a6f75849b"]
-- try: comments (article_id, created_at)
SELECT c.id, c.body FROM articles a JOIN comments c ON c.article_id = a.id WHERE a.slug = $1 ORDER BY c.created_at

-- name: join_items_of_order
-- values: ["4711"]
-- try: order_items (order_id)
SELECT i.id, p.name, i.quantity FROM order_items i JOIN products p ON p.id = i.product_id WHERE i.order_id = $1

-- name: join_both_sides
-- values: ["User54321@example.com"]
-- try: users (email) & orders (user_id)
-- try: users (email)
-- try: orders (user_id)
SELECT o.id, o.total FROM users u JOIN orders o ON o.user_id = u.id WHERE u.email = $1

-- name: join_three
-- values: ["SKU-C4CA4238A0"]
-- try: order_items (product_id)
-- try: order_items (product_id, order_id)
SELECT count(DISTINCT o.user_id) FROM products p JOIN order_items i ON i.product_id = p.id JOIN orders o ON o.id = i.order_id
WHERE p.sku = $1

-- name: join_filtered_far_side
-- values: ["failed", "2024-12-20"]
-- try: order_items (order_id)
-- try: orders (status, created_at)
-- try: orders (created_at) & order_items (order_id)
SELECT i.product_id, sum(i.quantity) FROM orders o JOIN order_items i ON i.order_id = o.id
WHERE o.status = $1 AND o.created_at >= $2 GROUP BY i.product_id

-- name: join_all
-- values: []
-- try: order_items (product_id)
SELECT p.category_id, sum(i.quantity * i.price) FROM order_items i JOIN products p ON p.id = i.product_id GROUP BY p.category_id

-- name: exists_semijoin
-- values: ["queue"]
-- try: comments (user_id)
SELECT u.id, u.username FROM users u WHERE u.status = 'deleted' AND u.country = 'BA'
AND EXISTS (SELECT 1 FROM comments c WHERE c.user_id = u.id AND c.votes > 300)

-- name: not_exists_antijoin
-- values: ["2021-02-01", "2021-02-02"]
-- try: orders (user_id)
SELECT count(*) FROM users u WHERE u.created_at BETWEEN $1 AND $2 AND NOT EXISTS (SELECT 1 FROM orders o WHERE o.user_id = u.id)

-- name: correlated_count
-- values: ["5"]
-- try: follows (followed_id)
SELECT u.id, (SELECT count(*) FROM follows f WHERE f.followed_id = u.id) FROM users u WHERE u.id = $1

-- name: correlated_latest
-- values: ["100", "110"]
-- try: comments (user_id)
-- try: comments (user_id, created_at)
SELECT u.id, (SELECT c.body FROM comments c WHERE c.user_id = u.id ORDER BY c.created_at DESC LIMIT 1)
FROM users u WHERE u.id BETWEEN $1 AND $2

-- name: lateral_top
-- values: ["3"]
-- try: articles (author_id, views)
-- try: articles (author_id)
SELECT f.followed_id, t.title FROM follows f CROSS JOIN LATERAL (SELECT a.title FROM articles a WHERE a.author_id = f.followed_id
ORDER BY a.views DESC LIMIT 2) t WHERE f.follower_id = $1

-- name: followers_feed
-- values: ["77", "30"]
-- try: articles (author_id)
-- try: articles (author_id, published_at)
-- try: articles (published_at)
SELECT a.id, a.title FROM articles a WHERE a.author_id IN (SELECT followed_id FROM follows WHERE follower_id = $1)
ORDER BY a.published_at DESC LIMIT $2

-- name: second_column_of_pk
-- values: ["190000"]
-- try: follows (followed_id)
SELECT follower_id FROM follows WHERE followed_id = $1

-- name: or_two_columns
-- values: ["199000", "199000"]
-- try: articles (author_id)
-- try: users (referrer_id) & users (email)
SELECT id, username FROM users WHERE referrer_id = 199000 OR email = 'User199000@mail.org'

-- name: or_orders
-- values: ["SAVE17", "160000"]
-- try: orders (coupon) & orders (user_id)
-- try: orders (coupon)
-- try: orders (user_id)
SELECT id, total FROM orders WHERE coupon = $1 OR user_id = $2

-- name: sparse_column
-- values: ["SAVE33"]
-- try: orders (coupon)
-- try: orders (coupon) WHERE coupon IS NOT NULL
SELECT id, total FROM orders WHERE coupon = $1

-- name: uuid_lookup
-- values: ["c81e728d-9d4c-2f63-6f06-7f89cc14862c"]
-- try: orders (reference)
SELECT id, status FROM orders WHERE reference = $1

-- name: date_of_timestamp
-- values: ["2023-08-08"]
-- expect: rewrite
-- try: orders (created_at)
SELECT count(*) FROM orders WHERE created_at::date = $1

-- name: date_trunc_day
-- values: ["2023-08-08"]
-- expect: rewrite
-- try: orders (created_at)
SELECT count(*) FROM orders WHERE date_trunc('day', created_at) = $1

-- name: arithmetic_on_column
-- values: ["1500"]
-- try: users (karma)
-- try: users ((karma + 1))
SELECT id FROM users WHERE karma + 1 = $1 AND status = 'deleted'

-- name: concatenated_expression
-- values: ["anna1"]
-- try: users ((username || country))
SELECT id FROM users WHERE username || country = $1

-- name: coalesce_expression
-- values: ["199500"]
-- try: users (COALESCE(referrer_id, 0))
SELECT id FROM users WHERE coalesce(referrer_id, 0) = $1

-- name: events_time_window
-- values: ["2024-05-05 00:00", "2024-05-05 01:00"]
-- try: events (at)
-- try: events USING brin (at)
SELECT count(*) FROM events WHERE at >= $1 AND at < $2

-- name: events_session
-- values: ["d3d9446802a44259755d38e6d163e820"]
-- try: events (session_id)
SELECT id, kind FROM events WHERE session_id = $1 ORDER BY at

-- name: events_kind_recent
-- values: ["kind30"]
-- try: events (kind)
-- try: events (kind, at)
-- try: events (at)
SELECT id, at FROM events WHERE kind = $1 ORDER BY at DESC LIMIT 20

-- name: events_group_all
-- values: []
-- try: events (kind)
SELECT kind, count(*) FROM events GROUP BY kind

-- name: group_by_user_in_range
-- values: ["2024-10-01 00:00", "2024-10-01 06:00"]
-- try: events (at)
-- try: events USING brin (at)
SELECT user_id, count(*) FROM events WHERE at BETWEEN $1 AND $2 GROUP BY user_id

-- name: small_table
-- values: ["EU"]
-- try: countries (region)
SELECT code, name FROM countries WHERE region = $1

-- name: small_table_order
-- values: []
-- try: countries (name)
SELECT code FROM countries ORDER BY name LIMIT 5

-- name: primary_key
-- values: ["500"]
-- try: articles (id, title)
SELECT title, body FROM articles WHERE id = $1

-- name: existing_status_index
-- values: ["failed"]
-- try: orders (status, created_at)
SELECT id, total FROM orders WHERE status = $1

-- name: existing_fk_index
-- values: ["60000"]
-- try: comments (article_id, created_at)
SELECT id, body FROM comments WHERE article_id = $1 ORDER BY created_at

-- name: popular_article_newest
-- values: ["1"]
-- try: comments (article_id, created_at)
SELECT id, body FROM comments WHERE article_id = $1 ORDER BY created_at DESC LIMIT 20

-- name: full_scan
-- values: []
-- try: users (status)
SELECT status, count(*), avg(karma) FROM users GROUP BY status

-- name: not_equal
-- values: ["done"]
-- try: orders (status, total)
-- try: orders (status)
SELECT count(*), sum(total) FROM orders WHERE status <> $1

-- name: low_cardinality_pair
-- values: ["active", "BA"]
-- try: users (country, status)
SELECT count(*), max(karma) FROM users WHERE status = $1 AND country = $2

-- name: distinct_countries
-- values: []
-- try: users (country)
SELECT DISTINCT country FROM users

-- name: stale_statistics
-- values: ["4321"]
-- expect: analyze
-- try: readings (sensor)
SELECT id, value FROM readings WHERE sensor = $1

-- name: delete_parent
-- values: ["49999"]
-- try: ticket_messages (ticket_id)
DELETE FROM tickets WHERE id = $1

-- name: delete_by_column
-- values: ["w7"]
-- try: jobs (locked_by)
-- try: jobs (locked_by) WHERE locked_by IS NOT NULL
DELETE FROM jobs WHERE locked_by = $1

-- name: update_by_column
-- values: ["140000"]
-- try: comments (user_id)
UPDATE comments SET votes = votes + 1 WHERE user_id = $1

-- name: update_by_key
-- values: ["1400"]
-- try: comments (id, votes)
UPDATE comments SET votes = votes + 1 WHERE id = $1

-- name: insert_row
-- values: ["9000001"]
-- try: countries (name)
INSERT INTO tickets (id, subject, opened_by) VALUES ($1, 'x', 1)

-- name: union_arms
-- values: ["120000", "120000"]
-- try: orders (user_id) & comments (user_id)
-- try: orders (user_id)
-- try: comments (user_id)
SELECT id, created_at FROM orders WHERE user_id = $1 UNION ALL SELECT id, created_at FROM comments WHERE user_id = $2

-- name: cte_filtered
-- values: ["180000"]
-- try: orders (user_id)
WITH mine AS (SELECT * FROM orders WHERE user_id = $1) SELECT status, count(*), sum(total) FROM mine GROUP BY status

-- name: comment_replies
-- values: ["5000"]
-- try: comments (parent_id)
-- try: comments (parent_id) WHERE parent_id IS NOT NULL
SELECT id, body FROM comments WHERE parent_id = $1

-- name: left_join_children
-- values: ["100001", "100010"]
-- try: order_items (order_id)
SELECT o.id, i.product_id FROM orders o LEFT JOIN order_items i ON i.order_id = o.id WHERE o.id BETWEEN $1 AND $2

-- name: top_karma
-- values: ["10"]
-- try: users (karma)
SELECT id, username, karma FROM users ORDER BY karma DESC LIMIT $1

-- name: never_logged_in
-- values: ["2019-02-01"]
-- try: users (last_login)
-- try: users (created_at)
-- try: users (created_at) WHERE last_login IS NULL
SELECT id FROM users WHERE last_login IS NULL AND created_at < $1
