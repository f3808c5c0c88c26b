//! What to write instead of a repetition: of an N+1 the eager-loading form that fits what is repeated.

use super::lookup::Lookup;
use super::repeats::{Found, Kind};

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Remedy {
    /// To one row, by its own key: a join.
    Joined,
    /// To many rows, by the key of what they belong to: one more SELECT for all.
    SelectIn,
    /// To an aggregate of rows: GROUP BY.
    Grouped,
    /// To the first of many rows: LATERAL, or a window.
    Lateral,
    /// The same rows: ask once, or have memory answer.
    Cached,
    /// Rows inserted one by one: all at once.
    InsertMany,
    /// Rows updated one by one: all at once.
    UpdateMany,
}

impl Remedy {
    /// Of what was found.
    pub fn of(found: &Found) -> Self {
        match found.kind {
            Kind::NPlusOne(_) => Self::of_child(&found.child.1, found.rows_max),
            Kind::Duplicate => Self::Cached,
            Kind::BatchableWrite if found.child.1.command == "INSERT" => Self::InsertMany,
            Kind::BatchableWrite => Self::UpdateMany,
        }
    }

    /// For the child of an N+1 that gave so many rows at most.
    fn of_child(child: &Lookup, rows_max: u64) -> Self {
        let is_own = child.key.as_ref().is_some_and(|key| key.is_own);
        if child.aggregates {
            Self::Grouped
        } else if is_own && rows_max <= 1 {
            Self::Joined
        } else if child.limits {
            Self::Lateral
        } else {
            Self::SelectIn
        }
    }

    /// The word in the console, the API and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joinedload",
            Self::SelectIn => "selectinload",
            Self::Grouped => "group_by",
            Self::Lateral => "lateral",
            Self::Cached => "cache",
            Self::InsertMany => "insert_many",
            Self::UpdateMany => "update_many",
        }
    }

    /// In a sentence, for the developer.
    pub fn sentence(self, parent: Option<&Lookup>, child: &Lookup) -> String {
        let name = |lookup: Option<&Lookup>| {
            lookup.and_then(|lookup| lookup.table.clone()).unwrap_or_else(|| "the rows".to_owned())
        };
        let (parent, table) = (name(parent), name(Some(child)));
        let column = child.key.as_ref().map_or("its key", |key| key.column.as_str());
        match self {
            Self::Joined => format!(
                "Load {table} together with {parent}: .options(joinedload(...)) of the relationship to {table} \
                 (Django: select_related). lazy=\"raise\" makes it fail in tests."
            ),
            Self::SelectIn => format!(
                "Load {table} for all {parent} at once: .options(selectinload(...)) of the relationship to {table} \
                 (Django: prefetch_related). lazy=\"raise\" makes it fail in tests."
            ),
            Self::Grouped => format!(
                "Ask once for all {parent}: SELECT {column}, ... FROM {table} WHERE {column} IN (...) GROUP BY {column}."
            ),
            Self::Lateral => format!(
                "Ask once for all {parent}: JOIN LATERAL (SELECT ... FROM {table} WHERE {column} = ... LIMIT ...), \
                 or row_number() OVER (PARTITION BY {column} ...)."
            ),
            Self::Cached => format!(
                "Ask {table} once and keep the rows for the rest of the request, or let Weir's cache answer \
                 (--cache on): the values are the same, and nothing was written in between."
            ),
            Self::InsertMany => format!(
                "Insert all rows of {table} at once: session.add_all([...]) and one flush, or session.execute(\
                 insert(...), [...]), which uses insertmanyvalues (Django: bulk_create)."
            ),
            Self::UpdateMany => format!(
                "Update all rows of {table} at once: session.execute(update(...), [...]) by primary key (Django: \
                 bulk_update), or one UPDATE ... WHERE {column} IN (...)."
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_fits_what_is_repeated() {
        for (child, rows, form) in [
            ("select * from users where id = ?", 1, "joinedload"),
            ("select * from users where id = ?", 3, "selectinload"),
            ("select * from comments where post_id = ?", 1, "selectinload"),
            ("select * from comments where post_id = ? limit ?", 3, "lateral"),
            ("select count(*) from comments where post_id = ?", 1, "group_by"),
        ] {
            assert_eq!(Remedy::of_child(&Lookup::of(child), rows).as_str(), form, "{child}");
        }
        let parent = Lookup::of("select * from posts");
        let sentence =
            Remedy::Joined.sentence(Some(&parent), &Lookup::of("select * from users where id = ?"));
        assert!(sentence.starts_with("Load users together with posts: .options(joinedload("), "{sentence}");
    }
}
