//! SQLSTATE codes (manual, Appendix A).

/// A five-character SQLSTATE. The constants are those that Weir itself answers with or acts on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// `08P01` protocol_violation.
    pub const PROTOCOL_VIOLATION: Self = Self(*b"08P01");
    /// `08006` connection_failure.
    pub const CONNECTION_FAILURE: Self = Self(*b"08006");
    /// `0A000` feature_not_supported; also "cached plan must not change result type".
    pub const FEATURE_NOT_SUPPORTED: Self = Self(*b"0A000");
    /// `22023` invalid_parameter_value.
    pub const INVALID_PARAMETER_VALUE: Self = Self(*b"22023");
    /// `25P02` in_failed_sql_transaction.
    pub const IN_FAILED_SQL_TRANSACTION: Self = Self(*b"25P02");
    /// `26000` invalid_sql_statement_name.
    pub const INVALID_SQL_STATEMENT_NAME: Self = Self(*b"26000");
    /// `28000` invalid_authorization_specification.
    pub const INVALID_AUTHORIZATION: Self = Self(*b"28000");
    /// `28P01` invalid_password.
    pub const INVALID_PASSWORD: Self = Self(*b"28P01");
    /// `3D000` invalid_catalog_name: no such database.
    pub const INVALID_CATALOG_NAME: Self = Self(*b"3D000");
    /// `42601` syntax_error.
    pub const SYNTAX_ERROR: Self = Self(*b"42601");
    /// `42501` insufficient_privilege.
    pub const INSUFFICIENT_PRIVILEGE: Self = Self(*b"42501");
    /// There is no such relation.
    pub const UNDEFINED_TABLE: Self = Self(*b"42P01");
    /// `42P05` duplicate_prepared_statement.
    pub const DUPLICATE_PREPARED_STATEMENT: Self = Self(*b"42P05");
    /// `53300` too_many_connections.
    pub const TOO_MANY_CONNECTIONS: Self = Self(*b"53300");
    /// `58P01` undefined_file: a library that is not installed.
    pub const UNDEFINED_FILE: Self = Self(*b"58P01");
    /// `53400` configuration_limit_exceeded: all replication slots are in use, for one.
    pub const CONFIGURATION_LIMIT_EXCEEDED: Self = Self(*b"53400");
    /// `57014` query_canceled.
    pub const QUERY_CANCELED: Self = Self(*b"57014");
    /// `57P01` admin_shutdown.
    pub const ADMIN_SHUTDOWN: Self = Self(*b"57P01");
    /// `57P03` cannot_connect_now.
    pub const CANNOT_CONNECT_NOW: Self = Self(*b"57P03");
    /// `57P05` idle_session_timeout.
    pub const IDLE_SESSION_TIMEOUT: Self = Self(*b"57P05");
    /// `25P03` idle_in_transaction_session_timeout.
    pub const IDLE_IN_TRANSACTION_TIMEOUT: Self = Self(*b"25P03");
    /// `XX000` internal_error.
    pub const INTERNAL_ERROR: Self = Self(*b"XX000");

    /// The code in an ErrorResponse's `C` field, if it has the right length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The five characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }
}

impl std::fmt::Debug for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Display for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
