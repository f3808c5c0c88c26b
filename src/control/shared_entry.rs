//! What stands in the shared store: tokens, and results with the tokens that they were read with.

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};

use super::shared_cache::TOKEN_SECONDS;
use crate::catalog::RelationId;
use crate::pg::Oid;

/// The first byte of a value: another layout is another version.
const VERSION: u8 = 1;

/// How a token says that it is another: by being random.
pub(super) type Token = [u8; 16];

/// What a result depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Of {
    /// Everything of this namespace.
    All,
    /// All of a database.
    Database,
    /// Its catalogs.
    Catalogs,
    /// One relation.
    Relation(RelationId),
}

/// A connection to one run of one server.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: MultiplexedConnection,
    pub(super) prefix: String,
}

impl Link {
    pub(super) fn token_key(&self, database: &str, of: Of) -> Vec<u8> {
        let what = match of {
            Of::All => return format!("{}t", self.prefix).into(),
            Of::Database => "*".to_owned(),
            Of::Catalogs => "c".to_owned(),
            Of::Relation(relation) => relation.0.0.to_string(),
        };
        format!("{}t:{database}\0{what}", self.prefix).into()
    }

    pub(super) fn entry_key(&self, database: &str, key: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), b"r:", database.as_bytes(), b"\0", key].concat()
    }

    /// Whoever vouches for a database's results writes his name there.
    pub(super) fn lease_key(&self, database: &str) -> String {
        format!("{}v:{database}", self.prefix)
    }

    /// Makes all void that is there, or all of a database.
    pub(super) async fn void(&self, database: Option<&str>) -> Result<(), RedisError> {
        let mut pipeline = redis::pipe();
        let key = match database {
            Some(database) => self.token_key(database, Of::Database),
            None => self.token_key("", Of::All),
        };
        pipeline.cmd("SET").arg(key).arg(&new_token()[..]).arg(("EX", TOKEN_SECONDS)).ignore();
        self.query::<Value>(&pipeline).await.map(drop)
    }

    pub(super) async fn query<T: redis::FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, RedisError> {
        pipeline.query_async(&mut self.connection.clone()).await
    }
}

pub(super) fn new_token() -> Token {
    rand::random::<u128>().to_be_bytes()
}

/// The tokens, if all of them are there.
pub(super) fn all_known(of: &[Of], tokens: &[Option<Vec<u8>>]) -> Option<Vec<(Of, Token)>> {
    let known = |(of, token): (&Of, &Option<Vec<u8>>)| Some((*of, token.as_deref()?.try_into().ok()?));
    (of.len() == tokens.len()).then_some(())?;
    of.iter().zip(tokens).map(known).collect()
}

/// ```text
///   version: u8 | count: u16 | count x ( relation: u32 | token: 16 bytes ) | result
/// ```
pub(super) fn closed(tokens: &[(Of, Token)], result: &[u8]) -> Vec<u8> {
    let head = head(tokens);
    [&head, result].concat()
}

fn head(tokens: &[(Of, Token)]) -> Vec<u8> {
    let mut head = vec![VERSION];
    head.extend_from_slice(&u16::try_from(tokens.len()).unwrap_or(u16::MAX).to_be_bytes());
    for (of, token) in tokens {
        let relation = match of {
            Of::All | Of::Database | Of::Catalogs => Oid(0),
            Of::Relation(relation) => relation.0,
        };
        head.extend_from_slice(&relation.0.to_be_bytes());
        head.extend_from_slice(token);
    }
    head
}

/// The result, if it was read with just these tokens.
pub(super) fn opened(value: &Bytes, tokens: &[(Of, Token)]) -> Option<Bytes> {
    let head = head(tokens);
    value.starts_with(&head).then(|| value.slice(head.len()..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_good_with_its_own_tokens_only() {
        let relation = |oid, token: u8| (Of::Relation(RelationId(Oid(oid))), [token; 16]);
        let tokens = [(Of::All, [0; 16]), (Of::Database, [1; 16]), (Of::Catalogs, [2; 16]), relation(7, 3)];
        let value = Bytes::from(closed(&tokens, b"rows"));
        assert_eq!(opened(&value, &tokens).as_deref(), Some(&b"rows"[..]));
        for place in 0..tokens.len() {
            let mut others = tokens;
            others[place].1 = [9; 16];
            assert_eq!(opened(&value, &others), None);
        }
        assert_eq!(opened(&value, &tokens[..3]), None);
        assert_eq!(opened(&value, &[&tokens[..3], &[relation(8, 3)]].concat()), None);
        for cut in 0..closed(&tokens, b"").len() {
            assert_eq!(opened(&value.slice(..cut), &tokens), None);
        }
    }
}
