//! What is wrong with a configuration, in words that tell the operator where to look and what to write.

use std::fmt;

/// One mistake. Passwords and URLs never stand in `got`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file as it was named, or `environment`, or `command line`.
    pub file: String,
    /// The line in the file, from 1.
    pub line: Option<usize>,
    /// The key with its section (`pool.max`), the variable (`WEIR_PRIMARY`) or the flag (`--primary`). May be empty.
    pub key: String,
    /// What would have been right.
    pub expected: String,
    /// What was there.
    pub got: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": expected {}, got {}", self.expected, self.got)
    }
}

/// All mistakes of a configuration; never empty. Printed one per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}
