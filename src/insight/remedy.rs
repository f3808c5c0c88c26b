//! What to write instead of an N+1: the eager-loading form that fits what is repeated.

use super::lookup::Lookup;

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
}

impl Remedy {
    /// For a child that gave so many rows at most.
    pub fn of(child: &Lookup, rows_max: u64) -> Self {
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
        }
    }

    /// In a sentence, for the developer.
    pub fn sentence(self, parent: &Lookup, child: &Lookup) -> String {
        let name = |lookup: &Lookup| lookup.table.clone().unwrap_or_else(|| "the rows".to_owned());
        let (parent, table) = (name(parent), name(child));
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
            assert_eq!(Remedy::of(&Lookup::of(child), rows).as_str(), form, "{child}");
        }
        let parent = Lookup::of("select * from posts");
        let sentence = Remedy::Joined.sentence(&parent, &Lookup::of("select * from users where id = ?"));
        assert!(sentence.starts_with("Load users together with posts: .options(joinedload("), "{sentence}");
    }
}
