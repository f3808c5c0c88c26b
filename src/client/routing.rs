//! Where a client's units go when reads are split off: between `decide` and `acquire` in the loop of seven verbs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Proxy;
use super::caching::{Around, Caching, Looked, Sought};
use super::fault::Fault;
use super::filling::Filling;
use crate::cache::{Doubt, Entry, Landing};
use crate::catalog::defaults::{Defaults, SessionDefaults};
use crate::catalog::{Catalog, Change, OnPrimary, SearchPath};
use crate::config::{Consistency, PoolMode, PrimaryReads, SplittingSettings};
use crate::consistency::{Standing, Ticket, Watched};
use crate::control::{Database, Splitting, Telling};
use crate::pg::{GucName, HostId, TransactionStatus};
use crate::route::{self, Block, Candidate, Facts, Pinned, Plan, Reason, Target};
use crate::server::{Host, Role, Tenant};
use crate::session::{self, BlockStep, Laziness, Message, ServerState, Session, Settings, Value};
use crate::sql::command::Isolation;
use crate::sql::comment;
use crate::sql::memo::Classified;
use crate::sql::{Analysis, Command};
use crate::wire::{Malformed, frontend};

/// One client's part of it.
#[derive(Debug)]
pub(super) struct Routing {
    pub(super) splitting: Arc<Splitting>,
    settings: SplittingSettings,
    pub(super) database: Arc<Database>,
    worker: usize,
    user: Box<str>,
    /// Its reads may go elsewhere.
    splits: bool,
    /// BEGIN may be answered here.
    lazy: bool,
    defaults: Known<Arc<Defaults>, Option<SessionDefaults>>,
    path: Known<(u64, Settings, bool), Option<Arc<SearchPath>>>,
    /// By another snapshot than the client's last: what sessions begin with may be something else.
    role_settings: Option<Box<str>>,
    /// The client's own last commit.
    pub(super) own: Ticket,
    /// A statement of it is under way that may change the catalog.
    pub(super) changing: Option<Change>,
    /// What was sent may be committed, and is not answered yet.
    pub(super) in_doubt: Option<Doubt>,
    /// Other Weirs are being told of its commits, which are not answered before that has ended.
    pub(super) telling: Vec<Telling>,
    /// How its results are kept, if they are.
    pub(super) caching: Option<Box<Caching>>,
    turn: u64,
    /// A database that the unit wants for itself.
    wants_alone: Option<String>,
}

/// What was found out, and from what.
type Known<From, What> = Option<(From, What)>;

/// Whether a unit is known to write nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    /// It may write.
    No,
    /// A replica would refuse to write; on the primary nothing holds back the code that it calls.
    OnReplica,
    /// Yes.
    Anywhere,
}

/// A text with comments, for their tags, and where these stand.
pub(super) type Tagged = (Arc<Analysis>, Box<[u8]>);

/// Where a unit goes.
#[derive(Debug)]
pub(super) enum Routed {
    /// To be decided again, once the replica that its block is on has been given up.
    Leaves,
    /// Nowhere: this is the answer, and why there is one.
    Here(Vec<u8>, Reason),
    /// Likewise, from memory, where it was looked for at this time; with the text, if it has comments.
    Cached(Arc<Entry>, Instant, Option<Tagged>),
    /// Nowhere yet: another client is fetching the answer.
    Fetched(Landing),
    /// Likewise: another Weir may have it.
    Shared(Box<Filling>),
    /// To a server.
    To {
        /// Which.
        target: Target,
        /// Why.
        reason: Reason,
        /// The client's BEGIN goes in front.
        opens_block: bool,
        /// Whether it is known to write nothing, so that what the client sends behind it is another decision.
        reads: Reads,
        /// The result is to be kept.
        filling: Option<Box<Filling>>,
        /// What the text says, if it is one simple query.
        analysis: Option<Arc<Analysis>>,
    },
}

impl Routed {
    /// To the primary, with whatever the client sends behind it.
    pub(super) fn primary(opens_block: bool, reason: Reason) -> Self {
        Self::To {
            target: Target::Primary,
            reason,
            opens_block,
            reads: Reads::No,
            filling: None,
            analysis: None,
        }
    }

    /// To the replica that the block is on, whatever it is.
    fn held(host: HostId) -> Self {
        let (target, reason) = (Target::Replica(host), Reason::BlockOnReplica);
        Self::To { target, reason, opens_block: false, reads: Reads::No, filling: None, analysis: None }
    }

    /// Why it goes there; `None`: that is still to be decided.
    pub(super) fn reason(&self) -> Option<Reason> {
        match self {
            Self::Leaves | Self::Fetched(_) | Self::Shared(_) => None,
            Self::Here(_, reason) | Self::To { reason, .. } => Some(*reason),
            Self::Cached(..) => Some(Reason::Memory),
        }
    }
}

impl Routing {
    /// For a client of a tenant; `None` if nothing is split off or kept. In session mode a client keeps the first server
    /// connection that it gets, which must be one to the primary; but what it writes concerns others.
    pub(super) fn new(proxy: &Proxy, tenant: &Tenant, user: &str, worker: usize) -> Option<Self> {
        let mode = tenant.pool_settings.mode;
        let splitting = Arc::clone(proxy.splitting.as_ref()?);
        let all = proxy.settings();
        let mut settings = all.splitting;
        if let Some(database) = all.databases.get(&tenant.database).or_else(|| all.databases.get("*")) {
            settings.consistency = database.consistency;
        }
        Some(Self {
            database: splitting.database(tenant.dbname()),
            splitting,
            lazy: settings.lazy_transactions && mode == PoolMode::Transaction,
            splits: mode != PoolMode::Session,
            settings,
            worker,
            user: user.into(),
            defaults: None,
            path: None,
            role_settings: None,
            own: Ticket::default(),
            changing: None,
            in_doubt: None,
            telling: Vec::new(),
            caching: Caching::new(proxy, user),
            turn: u64::from(rand::random::<u32>()),
            wants_alone: None,
        })
    }

    /// Decides on a unit of a client that holds no server connection, or one to a replica for the block `held`.
    pub(super) fn route(
        &mut self,
        session: &mut Session,
        held: Option<Block>,
        unit: &[u8],
        proxy: &Proxy,
        tenant: &Tenant,
    ) -> Result<Routed, Fault> {
        let opens_block = session.is_lazy() || held.is_some();
        if !self.splits {
            return Ok(Routed::primary(opens_block, Reason::NoSplitting));
        }
        match held {
            Some(Block::SnapshotOnReplica(host)) => return Ok(Routed::held(host)),
            // It has only read there: it need not be told.
            Some(Block::OnReplica(_)) if self.ends_block(session, unit, proxy)? => return Ok(Routed::Leaves),
            Some(Block::OnReplica(host)) if session.status() == TransactionStatus::Failed => {
                return Ok(Routed::held(host));
            }
            _ => {}
        }
        let Some(contents) = session.contents(unit)? else {
            self.not_plain();
            return Ok(Routed::primary(opens_block, Reason::Statement(OnPrimary::Opaque)));
        };
        let lexing = session.lexing();
        let mut plan: Option<Arc<Plan>> = None;
        let mut hint = None;
        let mut wanted_consistency = None;
        let mut single = None;
        {
            let mut memos = proxy.memos(self.worker);
            for text in &contents.texts {
                let classified = memos.classify(text.as_bytes(), text.lexing(lexing), proxy, self.worker);
                let Classified { analysis, classes, .. } = &classified;
                if contents.texts.len() == 1
                    && let Some(Block::OnReplica(host)) = held
                    && matches!(analysis.single().map(|only| &only.command), Some(Command::Begin(_)))
                {
                    return Ok(Routed::held(host));
                }
                if contents.texts.len() == 1
                    && held.is_none()
                    && let Some(step) = self.block_step(session, analysis)
                {
                    let mut answer = Vec::new();
                    let here =
                        session.take_step(step, text.as_bytes(), unit, &proxy.sessions, &mut answer)?;
                    return Ok(if here {
                        Routed::Here(answer, step.reason())
                    } else {
                        Routed::primary(opens_block, Reason::Statement(OnPrimary::TransactionCommand))
                    });
                }
                hint = comment::stricter(hint, analysis.hints.target);
                let consistency = analysis.hints.consistency.unwrap_or(self.settings.consistency);
                wanted_consistency = comment::stricter(wanted_consistency, Some(consistency));
                let wanted = analysis.statements.iter().find_map(|statement| statement.command.wants_alone());
                if let Some(database) = wanted {
                    self.wants_alone = Some(String::from_utf8_lossy(database.as_bytes()).into_owned());
                }
                let next = memos.plan(self, session, analysis, classes);
                single = (contents.texts.len() == 1).then_some(classified);
                plan = Some(match plan {
                    None => next,
                    Some(before) => Arc::new(before.and(&next, &self.database.floors)),
                });
            }
        }
        if single.is_none() {
            self.not_plain();
        }
        if let Some(role_settings) = self.role_settings.take() {
            self.database.renew(&role_settings, || proxy.tenants.reconnect(&self.database.name));
        }
        let Some(plan) = plan else {
            return Ok(Routed::primary(opens_block, Reason::Statement(OnPrimary::Opaque)));
        };
        if plan.effect.on_primary.is_some_and(OnPrimary::is_unknown_name) {
            self.suspect();
        }
        let block = held.unwrap_or_else(|| self.block(session));
        let analysis = single.as_ref().map(|single| Arc::clone(&single.analysis));
        // Before the route is chosen: who sees a new epoch here sees the floor below.
        let filling = match single
            .map(|single| self.look(session, block, unit, &plan, &single, contents.names_time, proxy))
            .transpose()?
            .flatten()
        {
            Some((Looked::Hit(entry), now)) => {
                // Most texts have no comments: theirs are not copied.
                let commented = analysis
                    .filter(|analysis| proxy.insight.is_some() && !analysis.comments.spans().is_empty());
                let tagged = commented.and_then(|analysis| {
                    contents.texts.first().map(|text| (analysis, text.as_bytes().into()))
                });
                return Ok(Routed::Cached(entry, now, tagged));
            }
            Some((Looked::Wait(landing), _)) => return Ok(Routed::Fetched(landing)),
            Some((Looked::Share(filling), _)) => return Ok(Routed::Shared(filling)),
            Some((Looked::Ask(filling), _)) => filling,
            None => None,
        };
        let facts = Facts {
            splitting: true,
            pinned: Pinned::No,
            hint,
            primary_reads: self.settings.primary_reads,
            primary: self.primary(proxy, tenant),
            parameter_names_time: contents.names_time,
            turn: self.turn,
        };
        self.turn = self.turn.wrapping_add(1);
        // What is kept is for everybody: it must be what the strictest reader may see.
        let consistency = wanted_consistency.filter(|_| filling.is_none()).unwrap_or_default();
        let candidates = self.candidates(&plan, block, consistency, proxy, tenant);
        let route = route::decide(&plan.effect, block, &facts, candidates);
        // On the primary a block that is opened stays, whatever it does next.
        let stays = route.opens_block && route.target == Target::Primary;
        let reads = match &plan.effect {
            effect if effect.on_primary.is_some() || stays => Reads::No,
            effect if effect.reads.everything => Reads::OnReplica,
            _ => Reads::Anywhere,
        };
        let compares = filling.as_ref().is_some_and(|filling| filling.is_comparison());
        Ok(Routed::To {
            target: if compares { Target::Primary } else { route.target },
            reason: route.reason,
            opens_block: route.opens_block,
            reads,
            filling: filling.filter(|_| reads == Reads::Anywhere && !route.opens_block),
            analysis: analysis.filter(|_| unit.first() == Some(&frontend::QUERY)),
        })
    }

    /// Looks for the unit's result in memory; `None`: nothing is kept, or need be looked for.
    #[expect(clippy::too_many_arguments, reason = "what is known of one unit, gathered by its one caller")]
    fn look(
        &mut self,
        session: &Session,
        block: Block,
        unit: &[u8],
        plan: &Arc<Plan>,
        classified: &Classified,
        names_time: bool,
        proxy: &Proxy,
    ) -> Result<Option<(Looked, Instant)>, Malformed> {
        let Some(caching) = &mut self.caching else { return Ok(None) };
        let mut memos = proxy.memos(self.worker);
        let plans = memos.plans_of(&self.database);
        let changes = self.database.catalog.changes();
        if std::mem::replace(&mut plans.changes, changes) != changes {
            // What clients were told of their prepared statements' columns may not be so any more.
            proxy.sessions.ddl_epoch.fetch_add(1, Ordering::AcqRel);
        }
        if caching.need_not_look(plan, &classified.analysis, &plans.verdicts) {
            return Ok(None);
        }
        let catalog = plans.reader.current().ok().map(Arc::clone);
        let mut around =
            Around { verdicts: &mut plans.verdicts, catalog: catalog.as_deref(), database: &self.database };
        let now = Instant::now();
        let sought = Sought { unit, plan, classified, names_time, block, now };
        Ok(Some((caching.look(&sought, session, &mut around, proxy)?, now)))
    }

    /// A unit that memory has no answer for, whatever it does.
    fn not_plain(&self) {
        if let Some(caching) = &self.caching {
            caching.not_plain();
        }
    }

    /// How its results are kept, if they are.
    pub(super) fn caching(&self) -> Option<&Caching> {
        self.caching.as_deref()
    }

    /// Likewise.
    pub(super) fn caching_mut(&mut self) -> Option<&mut Caching> {
        self.caching.as_deref_mut()
    }

    /// Closes our own connections to a database that the unit wants for itself.
    pub(super) async fn clear_the_way(&mut self) {
        if let Some(database) = self.wants_alone.take() {
            self.splitting.release(&database).await;
        }
    }

    /// Whether all that a unit does is to end its block.
    fn ends_block(&self, session: &Session, unit: &[u8], proxy: &Proxy) -> Result<bool, Malformed> {
        let Some(contents) = session.contents(unit)? else { return Ok(false) };
        let [text] = contents.texts.as_slice() else { return Ok(false) };
        let lexing = text.lexing(session.lexing());
        let mut memos = proxy.memos(self.worker);
        let Classified { analysis, .. } = memos.classify(text.as_bytes(), lexing, proxy, self.worker);
        let command = analysis.single().map(|only| &only.command);
        Ok(matches!(command, Some(Command::Commit { .. } | Command::Rollback { .. })))
    }

    fn block_step(&mut self, session: &Session, analysis: &Analysis) -> Option<BlockStep> {
        let laziness = if self.lazy {
            let usual = self.defaults().filter(|defaults| !defaults.deferrable);
            Laziness::ByIsolation(usual.map(|defaults| defaults.isolation))
        } else {
            Laziness::Never
        };
        session.block_step(analysis, laziness)
    }

    /// The block that the client is in. A standby cannot be asked at SERIALIZABLE (manual, 27.4 Hot Standby).
    fn block(&mut self, session: &Session) -> Block {
        if session.is_lazy() {
            return if session.is_lazy_snapshot() { Block::Snapshot } else { Block::Lazy };
        }
        let known = self.defaults().is_some_and(|defaults| defaults.isolation != Isolation::Serializable);
        if known && !session.settings().changes_isolation() {
            Block::None
        } else {
            Block::Eager { isolation: true }
        }
    }

    /// The primary as one of the readers, if it is to be one.
    fn primary(&self, proxy: &Proxy, tenant: &Tenant) -> Option<Candidate> {
        if self.settings.primary_reads != PrimaryReads::Share || !self.splitting.splits {
            return None;
        }
        let host = proxy.hosts.host(proxy.hosts.primary()?);
        Some(candidate(host, Standing::Satisfies, tenant))
    }

    fn candidates<'a>(
        &'a self,
        plan: &Plan,
        block: Block,
        consistency: Consistency,
        proxy: &'a Proxy,
        tenant: &'a Tenant,
    ) -> impl Iterator<Item = Candidate> + 'a {
        let floors = &self.database.floors;
        // What one snapshot is to show next is not known: anything.
        let watched = if block == Block::Snapshot { &Watched::everything() } else { &plan.watched };
        let need = floors.need(watched, consistency, self.own);
        let splits = self.splitting.splits;
        let replicas = proxy.hosts.list().iter().filter(move |host| splits && host.role() == Role::Replica);
        replicas.map(move |host| {
            candidate(host, self.splitting.positions.standing(host.id, need, self.settings.max_lag), tenant)
        })
    }

    /// What the client's sessions begin with; `None`: not known.
    fn defaults(&mut self) -> Option<SessionDefaults> {
        let now = self.database.defaults();
        match &self.defaults {
            Some((known, session)) if Arc::ptr_eq(known, &now) => *session,
            _ => {
                let session = now.session(&self.user);
                self.defaults = Some((now, session));
                session
            }
        }
    }

    /// The client's `search_path`; `None` where it is not known what is in force.
    pub(super) fn search_path(&mut self, session: &Session, catalog: &Catalog) -> Option<Arc<SearchPath>> {
        let (version, strings) = (catalog.version(), session.lexing().standard_conforming_strings);
        if let Some(((of, settings, by), path)) = &self.path
            && *of == version
            && *by == strings
            && settings.is_same(session.settings())
        {
            return path.clone();
        }
        if self.path.as_ref().is_none_or(|((of, ..), _)| *of != version) {
            self.role_settings = Some(catalog.role_settings().into());
        }
        let path = search_path(session.settings(), catalog, &self.user, strings).map(Arc::new);
        self.path = Some(((version, session.settings().clone(), strings), path.clone()));
        path
    }

    /// The catalog may be another than is known.
    fn suspect(&self) {
        if self.database.catalog.suspect() {
            self.splitting.catalog_changed(&self.database);
        }
    }

    /// Foresees what a message does that is not known to be a read, and so what its commit makes known. Gives why it
    /// belongs on the primary.
    pub(super) fn foresee(
        &mut self,
        session: &mut Session,
        message: Message<'_>,
        server: &ServerState,
        proxy: &Proxy,
    ) -> Result<Option<OnPrimary>, Malformed> {
        if session.is_reading() {
            return Ok(None);
        }
        let Some(text) = session.runs(message, server)? else { return Ok(None) };
        let lexing = text.lexing(session.lexing());
        let mut memos = proxy.memos(self.worker);
        let Classified { analysis, classes, .. } =
            memos.classify(text.as_bytes(), lexing, proxy, self.worker);
        if self.changing.is_none() && session::may_change_catalog(&analysis) {
            self.changing = Some(self.database.catalog.change());
        }
        let plan = session.may_foresee().then(|| memos.plan(self, session, &analysis, &classes));
        if message.tag == frontend::QUERY {
            session.analyzed(Some(analysis));
        }
        let why = plan.as_ref().and_then(|plan| plan.effect.on_primary);
        session.foresee(plan);
        Ok(why)
    }
}

fn candidate(host: &Host, standing: Standing, tenant: &Tenant) -> Candidate {
    let outstanding = u32::try_from(tenant.pool(host).outstanding()).unwrap_or(u32::MAX);
    Candidate { host: host.id, standing, weight: host.weight, outstanding }
}

fn search_path(settings: &Settings, catalog: &Catalog, user: &str, strings: bool) -> Option<SearchPath> {
    let is_set = |name: &str| settings.value(&GucName::new(name)).is_some();
    if !settings.is_empty() && (is_set("role") || is_set("session_authorization")) {
        return None;
    }
    match settings.search_path() {
        None => catalog.default_search_path(user),
        Some(Value::Source(text)) => SearchPath::from_source(text, strings, user),
        Some(Value::Literal(text)) => SearchPath::from_value(std::str::from_utf8(text).ok()?, user),
        Some(Value::Quoted(_)) => None,
    }
}
