//! What the statement's own text says and its plan does not: which constants are always the same, and which parameters
//! limit the result.

use crate::sql::scan::{Scanner, Token, TokenKind};

/// The constants that stand in every one of these texts, unquoted.
pub fn literals(texts: &[&str]) -> Vec<String> {
    let of = |text: &str| -> Vec<String> {
        let tokens = Scanner::new(text.as_bytes(), true).filter(|token| token.kind.is_literal());
        tokens.map(|token| unquoted(source(text, token))).collect()
    };
    let mut texts = texts.iter();
    let Some(first) = texts.next() else { return Vec::new() };
    let mut constants = of(first);
    for text in texts {
        let others = of(text);
        constants.retain(|constant| others.contains(constant));
    }
    constants
}

/// Parameters behind LIMIT and FETCH FIRST.
pub fn limit_parameters(text: &str) -> Vec<u32> {
    let tokens: Vec<Token> =
        Scanner::new(text.as_bytes(), true).filter(|token| token.kind != TokenKind::Comment).collect();
    let is_limit = |pair: &&[Token]| {
        let word = source(text, pair[0]).to_ascii_lowercase();
        pair[1].kind == TokenKind::Parameter && matches!(word.as_str(), "limit" | "first" | "next")
    };
    tokens
        .windows(2)
        .filter(is_limit)
        .filter_map(|pair| source(text, pair[1]).get(1..)?.parse().ok())
        .collect()
}

fn source(text: &str, token: Token) -> &str {
    text.get(token.span.start..token.span.end).unwrap_or_default()
}

fn unquoted(literal: &str) -> String {
    let inside = literal.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    inside.map_or_else(|| literal.to_owned(), |inside| inside.replace("''", "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_constants_of_all_texts_count() {
        let texts =
            ["SELECT 1 FROM t WHERE a = 'it''s' AND b = 7", "SELECT 1 FROM t WHERE a = 'it''s' AND b = 8"];
        assert_eq!(literals(&texts), ["1", "it's"]);
        assert_eq!(literals(&[]), [""; 0]);
    }

    #[test]
    fn parameters_of_limits_are_found() {
        assert_eq!(limit_parameters("SELECT a FROM t WHERE b = $1 LIMIT /* x */ $2 OFFSET $3"), [2]);
        assert_eq!(limit_parameters("SELECT a FROM t FETCH FIRST $1 ROWS ONLY"), [1]);
    }
}
