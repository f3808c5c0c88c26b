//! A few real executions of each slow shape, with their values: what EXPLAIN is to see. They are in memory only, and not for
//! long; see `[insight] samples`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::HashMap;

use super::record::{Client, Details};
use crate::advice::samples::{Bound, Sample};
use crate::wire::frame::Fields;

/// Shapes with executions.
const SHAPES_MAX: usize = 500;

/// Bytes of one execution's text and values.
const BYTES_MAX: usize = 32 << 10;

/// The slowest, the last, and two at random.
const KEPT: usize = 4;

/// One execution.
#[derive(Clone, Debug)]
pub struct Execution {
    /// What was run.
    pub details: Arc<Details>,
    /// Whose it was.
    pub client: Arc<Client>,
    /// How long it took.
    pub total: Duration,
    /// When it ended.
    pub ended: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Samples {
    shapes: HashMap<u64, Kept>,
    ttl: Duration,
}

#[derive(Debug)]
struct Kept {
    executions: Vec<Execution>,
    seen: u64,
}

impl Samples {
    /// Keeps executions for so long.
    pub fn new(ttl: Duration) -> Self {
        Self { shapes: HashMap::default(), ttl }
    }

    /// Keeps an execution, perhaps, in place of another.
    pub fn add(&mut self, shape: u64, execution: &Execution) {
        let Details { text, parameters, is_shape, .. } = &*execution.details;
        if *is_shape || text.len() + parameters.len() > BYTES_MAX {
            return;
        }
        if self.shapes.len() >= SHAPES_MAX && !self.shapes.contains_key(&shape) {
            self.expire(execution.ended);
            if self.shapes.len() >= SHAPES_MAX {
                return;
            }
        }
        let kept = self.shapes.entry(shape).or_insert(Kept { executions: Vec::new(), seen: 0 });
        kept.seen += 1;
        kept.executions.retain(|old| execution.ended.saturating_duration_since(old.ended) <= self.ttl);
        if kept.executions.len() < KEPT {
            kept.executions.push(execution.clone());
            return;
        }
        // The slowest stands first, the newest last; those between are a sample of all, thinner and thinner.
        if execution.total > kept.executions[0].total {
            kept.executions[0] = execution.clone();
        } else if kept.seen.is_power_of_two() {
            kept.executions[1 + usize::from(kept.seen.trailing_zeros().is_multiple_of(2))] =
                execution.clone();
        } else {
            kept.executions[KEPT - 1] = execution.clone();
        }
    }

    /// Forgets what is too old.
    pub fn expire(&mut self, now: Instant) {
        for kept in self.shapes.values_mut() {
            kept.executions.retain(|old| now.saturating_duration_since(old.ended) <= self.ttl);
        }
        self.shapes.retain(|_, kept| !kept.executions.is_empty());
    }

    /// Executions of a shape: the one of middle duration first, the slowest second.
    pub fn of(&self, shape: u64, now: Instant) -> Vec<Execution> {
        let Some(kept) = self.shapes.get(&shape) else { return Vec::new() };
        let is_fresh = |one: &&Execution| now.saturating_duration_since(one.ended) <= self.ttl;
        let mut executions: Vec<Execution> = kept.executions.iter().filter(is_fresh).cloned().collect();
        executions.sort_by_key(|execution| execution.total);
        if executions.len() > 2 {
            let middle = executions.remove(executions.len() / 2);
            executions.reverse();
            executions.insert(0, middle);
        }
        executions
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.shapes.clear();
    }

    /// Shapes that have some.
    pub fn len(&self) -> usize {
        self.shapes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.shapes.is_empty()
    }
}

/// The execution as EXPLAIN takes it; `None` where its text is not UTF-8.
pub fn sample(details: &Details) -> Option<Sample> {
    let text = std::str::from_utf8(&details.text).ok()?.to_owned();
    Some(Sample { text, bound: bound(&details.parameters, &details.types) })
}

/// Parameters as Bind has them, with the types of Parse. What is cut off counts as not bound.
pub fn bound(parameters: &[u8], types: &[u8]) -> Vec<Bound> {
    let mut fields = Fields::new(parameters);
    let mut read = || -> Option<Vec<Bound>> {
        let count = usize::from(fields.u16().ok()?);
        let formats: Vec<u16> = (0..count).map(|_| fields.u16().ok()).collect::<Option<_>>()?;
        let count = usize::from(fields.u16().ok()?);
        let mut bound = Vec::new();
        for at in 0..count {
            let length = fields.u32().ok()?;
            let value = match usize::try_from(length).ok() {
                Some(_) if length == u32::MAX => None,
                Some(length) => Some(fields.bytes(length).ok()?.to_vec()),
                None => return None,
            };
            let format = if formats.len() == 1 { formats[0] } else { formats.get(at).copied().unwrap_or(0) };
            bound.push(Bound { value, is_binary: format == 1, type_oid: type_oid(types, at) });
        }
        Some(bound)
    };
    read().unwrap_or_default()
}

fn type_oid(types: &[u8], at: usize) -> u32 {
    let start = 2 + at * 4;
    types.get(start..start + 4).map_or(0, |oid| u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Settings;

    #[test]
    fn parameters_are_read_off_bind() {
        let parameters = [0, 1, 0, 1, 0, 2, 0, 0, 0, 4, 0, 0, 0, 7, 255, 255, 255, 255, 0, 0];
        let types = [0, 1, 0, 0, 0, 23];
        let bound = bound(&parameters, &types);
        let [first, second] = bound.as_slice() else { panic!("{bound:?}") };
        assert_eq!(first, &Bound { value: Some(vec![0, 0, 0, 7]), is_binary: true, type_oid: 23 });
        assert_eq!(second, &Bound { value: None, is_binary: true, type_oid: 0 });
        assert_eq!(super::bound(&parameters[..9], &types), []);
        assert_eq!(super::bound(b"", b""), []);
    }

    #[test]
    fn the_slowest_is_kept_and_old_ones_go() {
        #[expect(clippy::disallowed_methods, reason = "an Instant is had in no other way")]
        let now = Instant::now();
        let client = Arc::new(Client::default());
        let execution = |ms: u64, at: Instant| Execution {
            details: Arc::new(Details {
                text: b"SELECT 1".as_slice().into(),
                standard_conforming_strings: true,
                parameters: Box::default(),
                types: Box::default(),
                settings: Settings::default(),
                is_shape: false,
            }),
            client: Arc::clone(&client),
            total: Duration::from_millis(ms),
            ended: at,
        };
        let mut samples = Samples::new(Duration::from_secs(60));
        for ms in [10, 11, 500, 12, 13, 14, 15, 16, 17] {
            samples.add(1, &execution(ms, now));
        }
        let kept = samples.of(1, now);
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[1].total, Duration::from_millis(500));
        assert!(kept[0].total < Duration::from_millis(100));
        for shape in 0..10_000 {
            samples.add(shape, &execution(1, now));
        }
        assert_eq!(samples.len(), SHAPES_MAX);
        let later = now + Duration::from_secs(61);
        assert!(samples.of(1, later).is_empty());
        samples.expire(later);
        assert!(samples.is_empty());
    }
}
