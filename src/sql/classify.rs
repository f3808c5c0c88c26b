//! Classification: the class of each statement of a text.
//!
//! **Two witnesses.** A statement is a read only if the parser's tree says so (`structure`) and the tokens alone, read
//! by PostgreSQL's own lexical rules, agree (`witness`): no word of a write, and the same relations. Where they do
//! not agree, or one of them does not know a part of the statement, it is Opaque. The parser is given the shape with
//! constants that kept their kind, so nothing in quotes reaches it.
//!
//! Statements other than queries and modifications are classified by their command.

use std::collections::BTreeMap;

use super::analyze::{Analysis, Statement};
use super::class::{Access, Call, Class, Classification, Facts, Mention, Name, Otherwise, Perhaps, Reason};
use super::command::{Command, Copy};
use super::keywords;
use super::limits::{Place, Size};
use super::recognize::recognize;
use super::scan::{Scanner, Span, Token, TokenKind};
use super::shape::typed;
use super::structure::{self, Structure};
use super::tokens::Tokens;
use super::witness::{self, Witness};

/// The classes of a text's statements, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// As many as the analysis has statements.
    pub statements: Box<[Classification]>,
}

impl Classes {
    /// Whether another text of the same shape, with constants of other kinds (`type 5`, `type '5'`), may be understood
    /// where this one was not.
    pub(super) fn depend_on_kinds(&self) -> bool {
        self.statements.iter().any(|class| {
            matches!(
                class.reason,
                Reason::Unparsed
                    | Reason::UnlistedSyntax
                    | Reason::SecondWitness
                    | Reason::RelationMismatch
                    | Reason::ParsePending
            )
        })
    }
}

/// What classifying here came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Classes(Classes),
    /// To be done by [`classify_anywhere`] on a thread with a stack of `limits::PARSE_STACK_BYTES`.
    TooLongHere,
}

/// Whether two texts of one shape always have the same classes. Not if a constant decides (`EXPLAIN (ANALYZE 'off')`).
pub fn shape_decides(analysis: &Analysis) -> bool {
    let by_constant = |statement: &Statement| {
        matches!(
            statement.command,
            Command::Explain { .. } | Command::DeclareCursor { .. } | Command::Copy(_) | Command::Unknown
        )
    };
    analysis.flaw.is_none() && !analysis.statements.iter().any(by_constant)
}

/// Classifies a text unless that would take long.
pub fn classify(text: &[u8], standard_conforming_strings: bool, analysis: &Analysis) -> Verdict {
    let classifier = Classifier { text, standard_conforming_strings, anywhere: false };
    match classifier.classes(analysis) {
        Some(classes) => Verdict::Classes(classes),
        None => Verdict::TooLongHere,
    }
}

/// Classifies a text, however long that takes.
pub fn classify_anywhere(text: &[u8], standard_conforming_strings: bool, analysis: &Analysis) -> Classes {
    let classifier = Classifier { text, standard_conforming_strings, anywhere: true };
    // Only a classifier that may not take long gives nothing.
    classifier.classes(analysis).unwrap_or_else(|| opaque(analysis, Reason::TooLong))
}

/// Classes for a text that is not, or not yet, classified.
pub fn opaque(analysis: &Analysis, reason: Reason) -> Classes {
    Classes { statements: analysis.statements.iter().map(|_| Classification::opaque(reason)).collect() }
}

#[derive(Clone, Copy)]
struct Classifier<'a> {
    text: &'a [u8],
    standard_conforming_strings: bool,
    /// Also what takes long.
    anywhere: bool,
}

/// `None`: it would take long.
type Here<T> = Option<T>;

impl Classifier<'_> {
    fn classes(self, analysis: &Analysis) -> Here<Classes> {
        if analysis.flaw.is_some() {
            return Some(opaque(analysis, Reason::Flaw));
        }
        let statements =
            analysis.statements.iter().map(|statement| self.command(&statement.command, statement.span));
        Some(Classes { statements: statements.collect::<Here<_>>()? })
    }

    fn command(self, command: &Command, span: Span) -> Here<Classification> {
        let bare = |class, reason| Some(Classification::bare(class, reason));
        match command {
            Command::Select
            | Command::Values
            | Command::Table
            | Command::With
            | Command::Insert
            | Command::Update
            | Command::Delete
            | Command::Merge
            | Command::SetConfig(_) => self.query(span),

            Command::Empty
            | Command::Set { .. }
            | Command::Reset(_)
            | Command::ResetAll
            | Command::Show(_)
            | Command::ShowAll
            | Command::Discard(_)
            | Command::Prepare(_)
            | Command::Deallocate(_)
            | Command::DeallocateAll
            | Command::Listen(_)
            | Command::Unlisten(_)
            | Command::UnlistenAll
            | Command::Notify(_)
            | Command::CloseCursor(_)
            | Command::CloseAllCursors => bare(Class::Session, Reason::SessionCommand),

            Command::Begin(_)
            | Command::Commit { .. }
            | Command::Rollback { .. }
            | Command::Savepoint(_)
            | Command::RollbackTo(_)
            | Command::Release(_)
            | Command::RollbackPrepared
            | Command::SetTransaction(_)
            | Command::SetTransactionSnapshot
            | Command::SetConstraints => bare(Class::Session, Reason::TransactionCommand),
            Command::PrepareTransaction | Command::CommitPrepared => bare(Class::Opaque, Reason::TwoPhase),

            Command::Fetch | Command::Move => bare(Class::PrimaryRead, Reason::Cursor),
            Command::Lock => bare(Class::PrimaryRead, Reason::LockTable),
            Command::Vacuum
            | Command::Analyze
            | Command::Cluster
            | Command::Reindex
            | Command::Checkpoint => bare(Class::PrimaryRead, Reason::Maintenance),

            Command::Truncate => Some(self.truncate(span)),
            Command::RefreshMaterializedView => Some(self.refresh(span)),
            Command::Copy(direction) => self.copy(*direction, span),
            Command::Explain { analyze } => self.explain(*analyze, span),
            Command::DeclareCursor { .. } => self.cursor(span),

            // A query into a temporary table may do anything besides.
            Command::CreateTemporary { .. } => bare(Class::Ddl, Reason::TemporaryObject),
            Command::Ddl
            | Command::CreateDatabase { .. }
            | Command::DropDatabase(_)
            | Command::AlterDatabaseRename(_)
            | Command::AlterDatabaseTablespace(_) => bare(Class::Ddl, Reason::CatalogChange),

            Command::Do | Command::Call | Command::Load => bare(Class::Opaque, Reason::ProcedureCode),
            Command::Execute(_) => bare(Class::Opaque, Reason::Execute),
            Command::Unknown => bare(Class::Opaque, Reason::UnknownStatement),
        }
    }

    /// A query or a modification: both witnesses are heard.
    fn query(self, span: Span) -> Here<Classification> {
        let opaque = |reason| Some(Classification::opaque(reason));
        let shape = typed(self.text, span, self.standard_conforming_strings);
        // In front of all work: a text may be as large as a client likes.
        if let Place::Nowhere(reason) = Size::of_bytes(shape.len()).place() {
            return opaque(reason);
        }
        let Ok(shape) = String::from_utf8(shape) else {
            return opaque(Reason::NotUtf8);
        };
        let witness = witness::read(&shape);
        match witness.size.place() {
            Place::Here => {}
            Place::Aside if self.anywhere => {}
            Place::Aside => return None,
            Place::Nowhere(reason) => return opaque(reason),
        }
        if witness.unicode_identifier {
            return opaque(Reason::UnicodeIdentifier);
        }
        if witness.odd_relation {
            return opaque(Reason::UnlistedSyntax);
        }
        match structure::parse(&witness.rewritten) {
            Ok(structure) => Some(agree(witness, structure)),
            Err(reason) => opaque(reason),
        }
    }

    fn tokens(self, span: Span) -> Vec<Token> {
        Scanner::within(self.text, span, self.standard_conforming_strings)
            .filter(|token| token.kind != TokenKind::Comment)
            .collect()
    }

    /// The statement inside another, from its first token on.
    fn inner(self, tokens: &[Token]) -> Here<Option<Classification>> {
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else {
            return Some(None);
        };
        let span = Span { start: first.span.start, end: last.span.end };
        let command = recognize(self.text, tokens).command;
        // Nothing that could hold yet another statement: a text must not nest us as deep as it likes.
        match command {
            Command::Select
            | Command::Values
            | Command::Table
            | Command::With
            | Command::Insert
            | Command::Update
            | Command::Delete
            | Command::Merge => self.query(span).map(Some),
            _ => Some(None),
        }
    }

    fn explain(self, analyze: bool, span: Span) -> Here<Classification> {
        if !analyze {
            return Some(Classification::bare(Class::PrimaryRead, Reason::Explain));
        }
        let tokens = self.tokens(span);
        let mut parser = Tokens::new(self.text, &tokens);
        parser.word("explain");
        parser.explain_options();
        let inner = self.inner(tokens.get(parser.at..).unwrap_or_default())?;
        Some(match inner {
            Some(inner) if inner.class == Class::Read => primary(inner, Reason::Explain),
            Some(inner) if inner.class == Class::Write => inner,
            _ => Classification::opaque(Reason::HiddenStatement),
        })
    }

    /// DECLARE ... FOR query
    fn cursor(self, span: Span) -> Here<Classification> {
        let tokens = self.tokens(span);
        let parser = Tokens::new(self.text, &tokens);
        let query = (0..tokens.len()).find(|&at| parser.is_word(at, "for")).map_or(tokens.len(), |at| at + 1);
        Some(match self.inner(tokens.get(query..).unwrap_or_default())? {
            Some(inner) if matches!(inner.class, Class::Read | Class::PrimaryRead) => {
                primary(inner, Reason::Cursor)
            }
            _ => Classification::opaque(Reason::HiddenStatement),
        })
    }

    fn copy(self, direction: Copy, span: Span) -> Here<Classification> {
        let tokens = self.tokens(span);
        let mut parser = Tokens::new(self.text, &tokens);
        parser.word("copy");
        let out = match direction {
            Copy::ToStdout | Copy::ToServer => true,
            Copy::FromStdin | Copy::FromServer => false,
        };
        if parser.kind(TokenKind::OpenParen).is_some() {
            let first = parser.at;
            let end = closing(&tokens, first);
            let inner = self.inner(tokens.get(first..end).unwrap_or_default())?;
            return Some(match inner {
                Some(inner) if out && matches!(inner.class, Class::Read | Class::PrimaryRead) => {
                    primary(inner, Reason::CopyOut)
                }
                Some(inner) if out && inner.class == Class::Write => inner,
                _ => Classification::opaque(Reason::HiddenStatement),
            });
        }
        parser.word("binary");
        Some(match (parser.qualified_name(), out) {
            (Some(name), true) => on_relations(Class::PrimaryRead, Reason::CopyOut, Access::Read, vec![name]),
            (Some(name), false) => on_relations(Class::Write, Reason::CopyIn, Access::Write, vec![name]),
            (None, _) => Classification::opaque(Reason::UnlistedSyntax),
        })
    }

    fn truncate(self, span: Span) -> Classification {
        let tokens = self.tokens(span);
        let mut parser = Tokens::new(self.text, &tokens);
        match parser.truncate() {
            Some((_, true)) => Classification::opaque(Reason::Cascade),
            Some((names, false)) => on_relations(Class::Write, Reason::Truncate, Access::Write, names),
            None => Classification::opaque(Reason::UnlistedSyntax),
        }
    }

    fn refresh(self, span: Span) -> Classification {
        let tokens = self.tokens(span);
        let mut parser = Tokens::new(self.text, &tokens);
        let mut view = || {
            parser.words(&["refresh", "materialized", "view"])?;
            parser.word("concurrently");
            parser.qualified_name()
        };
        match view() {
            // Its query may call anything.
            Some(name) => on_relations(Class::Write, Reason::Refresh, Access::Write, vec![name]),
            None => Classification::opaque(Reason::UnlistedSyntax),
        }
    }
}

/// Behind the last token inside the parenthesis whose inside begins at `first`.
fn closing(tokens: &[Token], first: usize) -> usize {
    let mut depth = 1_usize;
    for (at, token) in tokens.iter().enumerate().skip(first) {
        match token.kind {
            TokenKind::OpenParen => depth += 1,
            TokenKind::CloseParen => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

fn primary(inner: Classification, reason: Reason) -> Classification {
    Classification { class: Class::PrimaryRead, reason, ..inner }
}

fn on_relations(class: Class, reason: Reason, access: Access, names: Vec<Name>) -> Classification {
    let relations = distinct(names.into_iter().map(|name| Mention { name, access }).collect());
    Classification { relations, ..Classification::bare(class, reason) }
}

/// What both witnesses say together.
fn agree(witness: Witness, structure: Structure) -> Classification {
    let (mut by_tokens, mut by_tree) = (witness.mentions, structure.mentions);
    by_tokens.sort_unstable();
    by_tree.sort_unstable();
    if by_tokens != by_tree {
        return Classification::opaque(Reason::RelationMismatch);
    }
    let locks_rows = witness.locks_rows || structure.locks_rows;
    let (class, reason) = if structure.selects_into {
        (Class::Ddl, Reason::SelectInto)
    } else if structure.modifies {
        (Class::Write, Reason::DataModification)
    } else if witness.write_word {
        return Classification::opaque(Reason::SecondWitness);
    } else if locks_rows {
        (Class::PrimaryRead, Reason::LockingClause)
    } else {
        (Class::Read, Reason::PlainRead)
    };
    let mut calls = structure.calls;
    if witness.variadic {
        for call in &mut calls {
            call.arguments = None;
        }
    }
    let functions = functions(witness.calls, calls, structure.no_calls);
    let (perhaps, functions): (Vec<Call>, Vec<Call>) =
        functions.into_iter().partition(|call| keywords::is_grammar_of_newer(&call.name));
    let perhaps = perhaps.into_iter().map(|call| Perhaps { call, otherwise: Otherwise::Grammar });
    // What a function in FROM gives may be no row, and then what is called with `g.f` is a function of any type.
    let is_scalar = witness.calls_in_from || structure.calls_in_from;
    let perhaps = perhaps.chain(witness.attributes.into_iter().map(|attribute| attribute.read(is_scalar)));
    let perhaps = distinct(perhaps.collect());
    let mut types = witness.types;
    types.extend(structure.types.into_iter().filter(|name| !keywords::is_type_keyword(name)));
    let facts = Facts {
        returns_rows: structure.returns_rows,
        locks_rows,
        ordered: structure.ordered,
        limited: structure.limited,
        names_time: functions.iter().any(names_time)
            || perhaps.iter().any(|perhaps| names_time(&perhaps.call)),
        samples: structure.samples,
    };
    Classification {
        class,
        reason,
        relations: distinct(structure.relations),
        functions: functions.into(),
        perhaps,
        operators: distinct(witness.operators),
        types: distinct(types),
        facts,
    }
}

/// The calls that the tokens show, with the arguments that the tree knows. A name in front of a parenthesis that the
/// tree accounts for neither as a call nor as something else is a call with any arguments.
fn functions(by_tokens: Vec<Name>, by_tree: Vec<Call>, no_calls: Vec<Name>) -> Vec<Call> {
    let mut unmatched: BTreeMap<Name, Vec<Call>> = BTreeMap::new();
    for call in by_tree {
        unmatched.entry(call.name.clone()).or_default().push(call);
    }
    let mut others: BTreeMap<Name, usize> = BTreeMap::new();
    for name in no_calls {
        *others.entry(name).or_default() += 1;
    }
    let mut calls = Vec::with_capacity(by_tokens.len());
    for name in by_tokens {
        if let Some(call) = unmatched.get_mut(&name).and_then(Vec::pop) {
            calls.push(call);
        } else if let Some(count @ 1..) = others.get_mut(&name) {
            *count -= 1;
        } else {
            calls.push(Call { name, arguments: None });
        }
    }
    // What only the tree shows as a call is one, too, but for COALESCE and others that are part of the grammar.
    let is_grammar = |name: &Name| {
        name.schema.is_none()
            && (keywords::takes_parenthesis(&name.name) || keywords::value_function(&name.name).is_some())
    };
    calls.extend(unmatched.into_values().flatten().filter(|call| !is_grammar(&call.name)));
    calls.sort_unstable();
    calls.dedup();
    calls
}

/// Functions whose value is the transaction's or the current time.
fn names_time(call: &Call) -> bool {
    let is = |name| call.name.is_builtin(name);
    // `age` of one argument counts from today.
    let is_age = is("age") && call.arguments != Some(2);
    is_age
        || is("now")
        || is("transaction_timestamp")
        || is("statement_timestamp")
        || is("clock_timestamp")
        || is("timeofday")
        || is("current_timestamp")
        || is("current_date")
}

fn distinct<T: Ord>(mut list: Vec<T>) -> Box<[T]> {
    list.sort_unstable();
    list.dedup();
    list.into_boxed_slice()
}
