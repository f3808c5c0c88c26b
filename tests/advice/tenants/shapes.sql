-- The second set's statements, as an ORM and its users write them.

-- name: tenant_open_newest
-- values: ["4", "25"]
-- try: ticket (tenant_id, created_at)
-- try: ticket (tenant_id, state, created_at)
-- try: ticket (tenant_id, created_at) WHERE state = 'open'
SELECT ticket.id AS ticket_id, ticket.title AS ticket_title FROM ticket WHERE ticket.tenant_id = $1 AND ticket.state = 'open' ORDER BY ticket.created_at DESC LIMIT $2

-- name: tenant_rare_state
-- values: ["2"]
-- try: ticket (tenant_id, state)
-- try: ticket (tenant_id) WHERE state = 'new'
-- try: ticket (state)
SELECT count(*) AS count_1 FROM ticket WHERE ticket.tenant_id = $1 AND ticket.state = 'new'

-- name: by_project
-- values: ["41000"]
-- try: ticket (project_id)
SELECT ticket.id, ticket.title FROM ticket WHERE ticket.project_id = $1

-- name: by_project_paged
-- values: ["12", "50", "100"]
-- try: ticket (project_id, id)
-- try: ticket (project_id)
SELECT ticket.id, ticket.title FROM ticket WHERE ticket.project_id = $1 ORDER BY ticket.id DESC LIMIT $2 OFFSET $3

-- name: my_work
-- values: ["150"]
-- try: ticket (assignee_id)
-- try: ticket (assignee_id, state)
SELECT id, title, priority FROM ticket WHERE assignee_id = $1 AND state IN ('new', 'open', 'waiting') ORDER BY priority DESC, due_on

-- name: unassigned
-- values: ["3"]
-- try: ticket (tenant_id) WHERE assignee_id IS NULL
-- try: ticket (tenant_id, assignee_id)
SELECT id FROM ticket WHERE tenant_id = $1 AND assignee_id IS NULL AND state = 'open'

-- name: external_reference
-- values: ["EXT-104"]
-- try: ticket (external_ref)
-- try: ticket (external_ref) WHERE external_ref IS NOT NULL
SELECT id FROM ticket WHERE external_ref = $1

-- name: overdue
-- values: ["2024-01-03"]
-- try: ticket (due_on)
-- try: ticket (due_on) WHERE state <> 'closed'
SELECT id, due_on FROM ticket WHERE due_on < $1 AND state <> 'closed' ORDER BY due_on

-- name: view_by_assignee
-- values: ["90000"]
-- try: ticket (assignee_id)
SELECT id, title, assignee FROM open_ticket WHERE assignee_id = $1

-- name: view_new_only
-- values: []
-- try: ticket (state)
-- try: ticket (created_at) WHERE state = 'new'
SELECT id, title, assignee FROM open_ticket WHERE state = 'new' ORDER BY created_at LIMIT 20

-- name: updated_since
-- values: ["2024-05-28 12:00"]
-- try: ticket (updated_at)
SELECT id, updated_at FROM ticket WHERE updated_at > $1 ORDER BY updated_at

-- name: month_of_tickets
-- values: ["2021-03-01", "2021-03-08"]
-- try: ticket (created_at)
SELECT state, count(*) FROM ticket WHERE created_at >= $1 AND created_at < $2 GROUP BY state

-- name: count_all_by_state
-- values: []
-- try: ticket (state)
SELECT state, count(*) FROM ticket GROUP BY state

-- name: closed_count
-- values: []
-- try: ticket (state)
SELECT count(*) FROM ticket WHERE state = 'closed' AND priority > 1

-- name: day_of_creation
-- values: ["2021-06-06"]
-- try: ticket ((created_at::date))
-- try: ticket (created_at)
SELECT count(*) FROM ticket WHERE created_at::date = $1

-- name: year_of_creation
-- values: ["2019"]
-- try: ticket (EXTRACT(year FROM created_at))
SELECT count(*) FROM ticket WHERE extract(year FROM created_at) = $1

-- name: title_prefix
-- values: ["Ticket abc1%"]
-- try: ticket (title varchar_pattern_ops)
SELECT id, title FROM ticket WHERE title LIKE $1

-- name: title_infix
-- values: ["%abc12%"]
-- try: ticket USING gin (title gin_trgm_ops)
SELECT id, title FROM ticket WHERE title ILIKE $1

-- name: title_or_description
-- values: ["%abc12%", "%abc12%"]
-- try: ticket USING gin (title gin_trgm_ops) & ticket USING gin (description gin_trgm_ops)
-- try: ticket USING gin (title gin_trgm_ops)
SELECT id FROM ticket WHERE title ILIKE $1 OR description ILIKE $2

-- name: text_search_column
-- values: ["x4242"]
-- try: ticket (title)
SELECT id FROM ticket WHERE search @@ to_tsquery('simple', $1)

-- name: text_search_expression
-- values: ["abcdef"]
-- try: ticket USING gin (to_tsvector('simple', title))
SELECT id FROM ticket WHERE to_tsvector('simple', title) @@ plainto_tsquery('simple', $1)

-- name: custom_build
-- values: ["b777"]
-- try: ticket ((custom ->> 'build'))
SELECT id FROM ticket WHERE custom ->> 'build' = $1

-- name: custom_contains
-- values: ["{\"build\": \"b778\"}"]
-- try: ticket USING gin (custom jsonb_path_ops)
SELECT id FROM ticket WHERE custom @> $1::jsonb

-- name: custom_number
-- values: ["3"]
-- try: ticket (((custom ->> 'severity')::integer))
SELECT count(*) FROM ticket WHERE (custom ->> 'severity')::integer = $1

-- name: account_by_email_only
-- values: ["P4711@site2.com"]
-- try: account (email)
SELECT id, full_name FROM account WHERE email = $1

-- name: account_by_tenant_email
-- values: ["1", "p12@site3.com"]
-- try: account (email)
SELECT id FROM account WHERE tenant_id = $1 AND email = $2

-- name: account_name_lower
-- values: ["c4ca4 45c48cc"]
-- try: account (lower(full_name))
-- try: account (lower((full_name)::text))
SELECT id FROM account WHERE lower(full_name) = $1

-- name: account_phone
-- values: ["+491000707"]
-- try: account (phone)
SELECT id, full_name FROM account WHERE phone = $1

-- name: account_admins
-- values: []
-- try: account (is_admin)
-- try: account (id) WHERE is_admin
SELECT id, email FROM account WHERE is_admin AND is_active

-- name: account_inactive
-- values: ["5"]
-- try: account (tenant_id) WHERE NOT is_active
SELECT id FROM account WHERE NOT is_active AND tenant_id = $1

-- name: account_active_count
-- values: []
-- try: account (is_active)
SELECT count(*) FROM account WHERE is_active AND deleted_at IS NULL

-- name: account_recent
-- values: ["30"]
-- try: account (created_at)
-- try: account (created_at) WHERE deleted_at IS NULL
SELECT id, full_name FROM account WHERE deleted_at IS NULL ORDER BY created_at DESC LIMIT $1

-- name: account_deleted
-- values: []
-- try: account (deleted_at)
-- try: account (deleted_at) WHERE deleted_at IS NOT NULL
SELECT id FROM account WHERE deleted_at IS NOT NULL AND deleted_at < '2023-02-01'

-- name: account_locale
-- values: ["en"]
-- try: account (locale)
SELECT count(*), max(created_at) FROM account WHERE locale = $1

-- name: reports_tree
-- values: ["15000"]
-- try: account (manager_id)
WITH RECURSIVE r AS (SELECT id FROM account WHERE manager_id = $1 UNION ALL SELECT a.id FROM account a JOIN r ON a.manager_id = r.id)
SELECT count(*) FROM r

-- name: managers_of
-- values: ["250000"]
-- try: account (manager_id)
SELECT m.id, m.full_name FROM account a JOIN account m ON m.id = a.manager_id WHERE a.id = $1

-- name: name_sorted
-- values: ["20"]
-- try: account (full_name)
SELECT id, full_name FROM account ORDER BY full_name LIMIT $1

-- name: name_sorted_lower
-- values: ["20"]
-- try: account (lower(full_name))
-- try: account (lower((full_name)::text))
SELECT id, full_name FROM account ORDER BY lower(full_name) LIMIT $1

-- name: project_owner
-- values: ["123456"]
-- try: project (owner_id)
SELECT id, name FROM project WHERE owner_id = $1

-- name: project_children
-- values: ["120"]
-- try: project (parent_id)
SELECT id, name FROM project WHERE parent_id = $1 AND NOT archived

-- name: project_code
-- values: ["P-555"]
-- try: project (code)
SELECT id, name FROM project WHERE code = $1

-- name: project_dates
-- values: ["2021-05-05"]
-- try: project (starts_on)
-- try: project (starts_on, ends_on)
SELECT id FROM project WHERE starts_on <= $1 AND ends_on >= $1

-- name: project_labels
-- values: ["{a77}"]
-- try: project USING gin (labels)
SELECT id FROM project WHERE labels @> $1

-- name: project_label_any
-- values: ["a78"]
-- expect: rewrite
-- try: project USING gin (labels)
SELECT id FROM project WHERE $1 = ANY (labels)

-- name: member_projects
-- values: ["200000"]
-- try: member (account_id)
SELECT p.id, p.name FROM member m JOIN project p ON p.id = m.project_id WHERE m.account_id = $1

-- name: project_members
-- values: ["30"]
-- try: member (project_id, role)
SELECT a.id, a.full_name FROM member m JOIN account a ON a.id = m.account_id WHERE m.project_id = $1

-- name: visible_tickets
-- values: ["210000", "20"]
-- try: member (account_id) & ticket (project_id)
-- try: member (account_id)
-- try: ticket (project_id)
SELECT t.id, t.title FROM ticket t JOIN member m ON m.project_id = t.project_id WHERE m.account_id = $1 ORDER BY t.created_at DESC LIMIT $2

-- name: selectin_events
-- values: ["{699001,699002,699003,699004}"]
-- try: ticket_event (ticket_id)
SELECT ticket_event.ticket_id AS a, ticket_event.id AS b FROM ticket_event WHERE ticket_event.ticket_id = ANY ($1)

-- name: events_of_ticket
-- values: ["500000"]
-- try: ticket_event (ticket_id)
-- try: ticket_event (ticket_id, created_at)
SELECT e.id, e.verb, a.full_name FROM ticket_event e LEFT JOIN account a ON a.id = e.actor_id WHERE e.ticket_id = $1 ORDER BY e.created_at

-- name: last_event
-- values: ["9"]
-- try: ticket_event (ticket_id)
-- try: ticket_event (ticket_id, created_at)
SELECT DISTINCT ON (ticket_id) ticket_id, verb FROM ticket_event WHERE ticket_id = $1 ORDER BY ticket_id, created_at DESC

-- name: unseen
-- values: ["17"]
-- try: ticket_event (actor_id) WHERE NOT seen
-- try: ticket_event (actor_id)
SELECT id FROM ticket_event WHERE actor_id = $1 AND NOT seen

-- name: unseen_all
-- values: []
-- try: ticket_event (id) WHERE NOT seen
-- try: ticket_event (seen)
SELECT id, verb FROM ticket_event WHERE NOT seen ORDER BY id LIMIT 500

-- name: recent_events
-- values: ["100"]
-- try: ticket_event (created_at)
SELECT id, verb FROM ticket_event ORDER BY created_at DESC LIMIT $1

-- name: events_hour
-- values: ["2020-05-05 10:00", "2020-05-05 11:00"]
-- try: ticket_event (created_at)
SELECT verb, count(*) FROM ticket_event WHERE created_at BETWEEN $1 AND $2 GROUP BY verb

-- name: events_by_verb
-- values: ["comment"]
-- try: ticket_event (verb)
SELECT count(DISTINCT actor_id) FROM ticket_event WHERE verb = $1

-- name: busiest
-- values: []
-- try: ticket_event (actor_id)
SELECT actor_id, count(*) AS n FROM ticket_event GROUP BY actor_id ORDER BY n DESC LIMIT 10

-- name: row_number
-- values: ["5000"]
-- try: ticket_event (actor_id)
SELECT * FROM (SELECT id, row_number() OVER (PARTITION BY ticket_id ORDER BY created_at DESC) AS n FROM ticket_event WHERE actor_id = $1) s WHERE n = 1

-- name: not_in_subquery
-- values: ["79985"]
-- try: ticket (project_id)
SELECT id FROM project WHERE id > $1 AND id NOT IN (SELECT project_id FROM ticket)

-- name: exists_event
-- values: ["650000", "650020"]
-- try: ticket_event (ticket_id)
SELECT t.id FROM ticket t WHERE t.id BETWEEN $1 AND $2 AND EXISTS (SELECT 1 FROM ticket_event e WHERE e.ticket_id = t.id AND e.verb = 'tag')

-- name: update_from
-- values: ["77000"]
-- try: ticket (project_id)
UPDATE ticket SET updated_at = now() FROM project p WHERE p.id = ticket.project_id AND p.id = $1

-- name: delete_ticket
-- values: ["699999"]
-- try: ticket_event (ticket_id)
DELETE FROM ticket WHERE id = $1

-- name: delete_old
-- values: ["2019-01-02"]
-- try: ticket_event (created_at)
DELETE FROM ticket_event WHERE created_at < $1

-- name: polymorphic_owner
-- values: ["ticket", "4242"]
-- try: attachment (owner_id)
-- try: attachment (owner_id, owner_type)
SELECT id, filename FROM attachment WHERE owner_type = $1 AND owner_id = $2

-- name: by_hash
-- values: ["c4ca4238a0b923820dcc509a6f75849bc81e728d9d4c2f636f067f89cc14862c"]
-- try: attachment (sha256)
SELECT id FROM attachment WHERE sha256 = $1

-- name: large_files
-- values: ["8000000"]
-- try: attachment (bytes)
SELECT id, filename FROM attachment WHERE bytes > $1 ORDER BY bytes DESC

-- name: file_suffix
-- values: ["%.pdf"]
-- try: attachment USING gin (filename gin_trgm_ops)
SELECT count(*) FROM attachment WHERE filename LIKE $1

-- name: sum_of_type
-- values: ["ticket"]
-- try: attachment (owner_type)
SELECT sum(bytes) FROM attachment WHERE owner_type = $1

-- name: room_overlap
-- values: ["7", "[2023-04-01 10:00,2023-04-01 12:00)"]
-- try: booking USING gist (during)
-- try: booking (room_id)
SELECT id FROM booking WHERE room_id = $1 AND during && $2

-- name: booked_at
-- values: ["2023-04-04 12:30"]
-- try: booking USING gist (during)
SELECT id, room_id FROM booking WHERE during @> $1::timestamp

-- name: audit_of_account
-- values: ["222222"]
-- try: audit (account_id)
SELECT id, at, action FROM audit WHERE account_id = $1

-- name: audit_window
-- values: ["2024-03-03 10:00", "2024-03-03 10:30", "action3"]
-- try: audit (at)
-- try: audit (action, at)
SELECT id FROM audit WHERE at >= $1 AND at < $2 AND action = $3

-- name: audit_ip
-- values: ["10.0.50.7"]
-- try: audit (ip)
SELECT id, at FROM audit WHERE ip = $1

-- name: small_lookup
-- values: ["ABX"]
-- try: currency (rate)
SELECT rate FROM currency WHERE code = $1

-- name: tenants_by_plan
-- values: ["pro"]
-- try: tenant (plan)
SELECT id, name FROM tenant WHERE plan = $1 ORDER BY name

-- name: keyset_by_id
-- values: ["350000", "100"]
-- try: ticket (id, title)
SELECT id, title FROM ticket WHERE id > $1 ORDER BY id LIMIT $2

-- name: join_filter_both
-- values: ["23"]
-- try: account (tenant_id, created_at)
-- try: ticket (reporter_id)
SELECT t.id FROM ticket t JOIN account a ON a.id = t.reporter_id WHERE a.tenant_id = $1 AND a.is_admin AND t.state = 'open'

-- name: tenant_usage
-- values: []
-- try: ticket (project_id)
SELECT p.tenant_id, count(*) FROM project p JOIN ticket t ON t.project_id = p.id GROUP BY p.tenant_id

-- name: latest_of_tenant_with_account
-- values: ["250", "10"]
-- try: ticket (tenant_id, created_at)
SELECT t.id, a.full_name FROM ticket t JOIN account a ON a.id = t.reporter_id WHERE t.tenant_id = $1 ORDER BY t.created_at DESC LIMIT $2

-- name: any_of_three
-- values: ["9", "EXT-33", "260000"]
-- try: ticket (external_ref) & ticket (reporter_id)
-- try: ticket (external_ref)
SELECT id FROM ticket WHERE id = $1 OR external_ref = $2 OR reporter_id = $3

-- name: priority_and_state
-- values: ["5"]
-- try: ticket (state, priority)
-- try: ticket (priority) WHERE state = 'new'
SELECT id FROM ticket WHERE priority = $1 AND state = 'new'

-- name: max_of_project
-- values: ["20000"]
-- try: ticket (project_id)
-- try: ticket (project_id, updated_at)
SELECT max(updated_at) FROM ticket WHERE project_id = $1

-- name: insert_select
-- values: ["60000"]
-- try: ticket (project_id)
INSERT INTO attachment (owner_type, owner_id, filename, bytes, sha256, created_at)
SELECT 'ticket', id, 'x', 1, 'y', now() FROM ticket WHERE project_id = $1
