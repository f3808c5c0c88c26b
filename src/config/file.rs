//! The file as written: a TOML document whose every value knows its line and key.
//!
//! Read from the parsed document rather than through serde, whose `Deserialize` ends at the first error: here a wrong
//! value is noted, its default is used, and reading goes on, so that all mistakes come out at once. A key is
//! known because it was asked for; what is left over at the end is a mistake.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::mistake::Mistake;
use super::value::{Read, Wrong, shown_value};

/// What is expected where the syntax is wrong.
pub(super) const TOML: &str = "TOML";

/// The mistakes found so far.
#[derive(Default)]
pub(super) struct Found(RefCell<Vec<Mistake>>);

impl Found {
    pub(super) fn note(&self, origin: &Origin, wrong: Wrong) {
        self.0.borrow_mut().push(Mistake {
            file: origin.file.clone(),
            line: origin.line,
            key: origin.key.clone(),
            expected: wrong.expected,
            got: wrong.got.unwrap_or_else(|| "something else".to_owned()),
        });
    }

    /// All mistakes, by line; those without a line last.
    pub(super) fn into_sorted(self) -> Vec<Mistake> {
        let mut mistakes = self.0.into_inner();
        mistakes.sort_by_key(|mistake| (mistake.line.is_none(), mistake.line));
        mistakes
    }
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) file: String,
    pub(super) line: Option<usize>,
    pub(super) key: String,
    /// What relative paths in the value are relative to: the file's directory, or the working directory.
    pub(super) directory: PathBuf,
}

impl Origin {
    pub(super) fn environment(variable: &str) -> Self {
        Self::without_line("environment", variable)
    }

    pub(super) fn command_line(flag: &str) -> Self {
        Self::without_line("command line", flag)
    }

    pub(super) fn without_line(file: &str, key: &str) -> Self {
        Self { file: file.to_owned(), line: None, key: key.to_owned(), directory: PathBuf::new() }
    }
}

/// A value and where it was written.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Written<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

/// A parsed file.
pub(super) struct Document<'a> {
    name: String,
    text: &'a str,
    root: DeTable<'a>,
    found: &'a Found,
}

impl<'a> Document<'a> {
    /// Parses `text`. Syntax errors are noted, and what could be understood in spite of them is kept.
    pub(super) fn parse(name: &str, text: &'a str, found: &'a Found) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let document = Self { name: name.to_owned(), text, root: root.into_inner(), found };
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            found.note(&document.origin(offset, ""), Wrong::with_got(TOML, message));
        }
        document
    }

    /// The file's top level.
    pub(super) fn root(&self) -> Section<'_> {
        Section { document: self, table: Some(&self.root), prefix: String::new(), known: Vec::new() }
    }

    fn origin(&self, offset: usize, key: &str) -> Origin {
        let newlines = self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
        Origin {
            file: self.name.clone(),
            line: Some(newlines + 1),
            key: key.to_owned(),
            directory: Path::new(&self.name).parent().map(Path::to_owned).unwrap_or_default(),
        }
    }
}

/// A table of the file, or the absence of one.
pub(super) struct Section<'a> {
    document: &'a Document<'a>,
    table: Option<&'a DeTable<'a>>,
    /// `pool.` for the keys of `[pool]`.
    prefix: String,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The value of `key`, if it is there and right.
    pub(super) fn read<T>(&mut self, key: &'static str, read: impl Fn(&DeValue<'_>) -> Read<T>) -> Option<T> {
        self.written(key, read).map(|written| written.value)
    }

    /// As `read`, with the place it was found at.
    pub(super) fn written<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&DeValue<'_>) -> Read<T>,
    ) -> Option<Written<T>> {
        let value = self.value(key)?;
        self.read_value(format!("{}{key}", self.prefix), value, &read)
    }

    /// The elements of the list `key`, as far as they are right; `None` if there is no list.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&DeValue<'_>) -> Read<T>,
    ) -> Option<Vec<Written<T>>> {
        let value = self.value(key)?;
        let key = format!("{}{key}", self.prefix);
        let Some(array) = value.get_ref().as_array() else {
            self.read_value(key, value, &|_| Read::<()>::Err(Wrong::new("a list")));
            return None;
        };
        let element = |(index, value)| self.read_value(format!("{key}[{index}]"), value, &read);
        Some(array.iter().enumerate().filter_map(element).collect())
    }

    /// The table `key`; all its keys are absent if it is.
    pub(super) fn section(&mut self, key: &'static str) -> Self {
        let table = self.value(key).and_then(|value| self.table(format!("{}{key}", self.prefix), value));
        Section {
            document: self.document,
            table,
            prefix: format!("{}{key}.", self.prefix),
            known: Vec::new(),
        }
    }

    /// The tables inside the table `key`, by name, such as `[databases.app]`.
    pub(super) fn named_sections(&mut self, key: &'static str) -> Vec<(Written<String>, Self)> {
        let prefix = self.section(key).prefix;
        let Some(table) = self.table.and_then(|table| table.get(key)?.get_ref().as_table()) else {
            return Vec::new();
        };
        let named = |(name, value): (&'a Spanned<DeString<'a>>, _)| {
            let path = format!("{prefix}{}", name.get_ref());
            let origin = self.document.origin(name.span().start, &path);
            let table = self.table(path.clone(), value);
            let section =
                Section { document: self.document, table, prefix: format!("{path}."), known: Vec::new() };
            (Written { value: name.get_ref().to_string(), origin }, section)
        };
        table.iter().map(named).collect()
    }

    /// Notes all keys that nobody asked for.
    pub(super) fn finish(self) {
        for (key, _) in self.table.into_iter().flat_map(DeTable::iter) {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let expected = match closest(name, &self.known) {
                Some(known) => format!("a known key, perhaps {}{known}", self.prefix),
                None => format!("a known key ({})", self.known.join(", ")),
            };
            let origin = self.document.origin(key.span().start, &format!("{}{name}", self.prefix));
            self.document.found.note(&origin, Wrong::with_got(expected, format!("{name:?}")));
        }
    }

    fn value(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.table?.get(key)
    }

    fn read_value<T>(
        &self,
        key: String,
        value: &Spanned<DeValue<'_>>,
        read: &impl Fn(&DeValue<'_>) -> Read<T>,
    ) -> Option<Written<T>> {
        let origin = Origin { key, ..self.document.origin(value.span().start, "") };
        match read(value.get_ref()) {
            Ok(value) => Some(Written { value, origin }),
            Err(mut wrong) => {
                wrong.got.get_or_insert_with(|| shown_value(value.get_ref()));
                self.document.found.note(&origin, wrong);
                None
            }
        }
    }

    fn table(&self, key: String, value: &'a Spanned<DeValue<'a>>) -> Option<&'a DeTable<'a>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.read_value(key, value, &|_| Read::<()>::Err(Wrong::new("a section")));
        }
        table
    }
}

/// The known key that was most likely meant.
fn closest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = known.iter().map(|key| (distance(name, key), *key)).min()?;
    let is_near = near.0 <= 1 + name.len() / 4;
    is_near.then_some(near.1)
}

/// Levenshtein distance.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_near_or_absent() {
        let known = ["max", "min", "idle_timeout", "queue_timeout"];
        assert_eq!(closest("mx", &known), Some("max"));
        assert_eq!(closest("idel_timeout", &known), Some("idle_timeout"));
        assert_eq!(closest("colour", &known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
