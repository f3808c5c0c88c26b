//! Index advice: from a statement's plan to an index that is proven, or to the reason why none helps.
//!
//! Read off the plan and not off the text (`condition`): there PostgreSQL has resolved names, expanded views, folded constants
//! and made joins of subqueries. `plan` is the tree, `predicates` what it asks of each relation, `candidates` which indexes could
//! serve that, `choice` which of them to try and to advise. What a set of indexes would cost is said by the planner with
//! HypoPG, or by `model` and `paths` from the statistics in `schema`: the choice does not know which. `verdict` is what comes of
//! it, `merge` and `book` bring together what came of many statements. `existing` is about the indexes that there are.
//!
//! All of it is pure. `control::Explainer` asks the questions, and never runs a client's statement.

pub mod analysis;
pub mod book;
pub mod budget;
pub mod candidates;
pub mod condition;
pub mod choice;
pub mod effort;
pub mod entry;
pub mod existing;
pub mod explain_why;
pub mod identifier;
pub mod immutable;
pub mod include;
pub mod load;
pub mod mentions;
pub mod merge;
pub mod model;
pub mod paths;
pub mod pattern;
pub mod plan;
pub mod plan_text;
pub mod predicates;
pub mod probes;
pub mod samples;
pub mod schema;
pub mod text;
pub mod verdict;
