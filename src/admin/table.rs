//! Rows for a console's user, and the messages that carry them (pgwire's).

use std::sync::Arc;

use bytes::BytesMut;
use pgwire::api::Type;
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo};
use pgwire::messages::Message;
use pgwire::messages::data::{FieldDescription, RowDescription};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColumnType {
    Text,
    Int4,
    Int8,
}

/// A value; numbers that do not fit their column stand at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    Null,
    Text(String),
    Int(i64),
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<bool> for Cell {
    fn from(flag: bool) -> Self {
        Self::Int(i64::from(flag))
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Cell {
    fn from(number: usize) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Cell {
    fn from(number: u32) -> Self {
        Self::Int(i64::from(number))
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A row of anything that is a cell.
macro_rules! row {
    ($($cell:expr),* $(,)?) => { vec![$($crate::admin::table::Cell::from($cell)),*] };
}
pub(super) use row;

/// A result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) columns: Vec<(&'static str, ColumnType)>,
    pub(super) rows: Vec<Vec<Cell>>,
}

/// How a client wants its columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Formats(pub(super) Vec<i16>);

impl Formats {
    /// As Bind says it: none is text for all, one is for all, else one each (manual, 55.7).
    fn of(&self, column: usize) -> FieldFormat {
        let code = match self.0.as_slice() {
            [one] => Some(one),
            each => each.get(column),
        };
        FieldFormat::from(code.copied().unwrap_or_default())
    }
}

impl Table {
    /// A table without rows; `columns` as in `"name database, int4 port"`.
    pub(super) fn new(columns: &[(&'static str, ColumnType)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    fn fields(&self, formats: &Formats) -> Vec<FieldInfo> {
        let field = |(index, (name, column_type)): (usize, &(&str, ColumnType))| {
            let (datatype, size) = match column_type {
                ColumnType::Text => (Type::TEXT, -1),
                ColumnType::Int4 => (Type::INT4, 4),
                ColumnType::Int8 => (Type::INT8, 8),
            };
            FieldInfo::new((*name).to_owned(), None, None, datatype, formats.of(index)).with_type_size(size)
        };
        self.columns.iter().enumerate().map(field).collect()
    }

    /// Writes RowDescription.
    pub(super) fn describe(&self, formats: &Formats, out: &mut Vec<u8>) {
        let fields = self.fields(formats).iter().map(FieldDescription::from).collect();
        append(&RowDescription::new(fields), out);
    }

    /// Writes the DataRows.
    pub(super) fn write_rows(&self, formats: &Formats, out: &mut Vec<u8>) {
        let mut encoder = DataRowEncoder::new(Arc::new(self.fields(formats)));
        for row in &self.rows {
            for (cell, (_, column_type)) in row.iter().zip(&self.columns) {
                let written = match (cell, column_type) {
                    (Cell::Text(text), ColumnType::Text) => encoder.encode_field(&text.as_str()),
                    (Cell::Int(number), ColumnType::Int8) => encoder.encode_field(number),
                    (Cell::Int(number), ColumnType::Int4) => {
                        encoder.encode_field(&i32::try_from(*number).unwrap_or(i32::MAX))
                    }
                    (Cell::Int(number), ColumnType::Text) => encoder.encode_field(&number.to_string()),
                    // No list of ours has text in a column of numbers; a NULL keeps the client's count of fields.
                    (Cell::Null | Cell::Text(_), _) => encoder.encode_field(&None::<String>),
                };
                written.expect("text and integers always have an encoding");
            }
            append(&encoder.take_row(), out);
        }
    }
}

fn append(message: &impl Message, out: &mut Vec<u8>) {
    let mut buffer = BytesMut::new();
    message.encode(&mut buffer).expect("encoding into memory cannot fail");
    out.extend_from_slice(&buffer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_written_in_both_formats() {
        let mut table = Table::new(&[("name", ColumnType::Text), ("port", ColumnType::Int4)]);
        table.rows = vec![row!["db", 5432_u32], row![None::<String>, u64::MAX]];
        let mut out = Vec::new();
        table.write_rows(&Formats::default(), &mut out);
        assert_eq!(
            out,
            b"D\0\0\0\x14\0\x02\0\0\0\x02db\0\0\0\x045432D\0\0\0\x18\0\x02\xff\xff\xff\xff\0\0\0\x0a2147483647"
        );
        out.clear();
        table.rows.truncate(1);
        table.write_rows(&Formats(vec![1]), &mut out);
        assert_eq!(out, b"D\0\0\0\x14\0\x02\0\0\0\x02db\0\0\0\x04\0\0\x15\x38");
        out.clear();
        table.describe(&Formats(vec![0, 1]), &mut out);
        assert_eq!(&out[..12], b"T\0\0\0\x34\0\x02name\0");
        assert_eq!(&out[out.len() - 12..], b"\0\0\0\x17\0\x04\xff\xff\xff\xff\0\x01");
    }
}
