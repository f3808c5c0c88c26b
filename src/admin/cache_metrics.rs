//! The metrics of the cache, and of the store that several Weirs share.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::cache::{CacheView, ReasonView, SharedView};
use super::metrics::Counters;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CacheLabels {
    kind: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

pub(super) fn of_cache(registry: &mut Registry, cache: &CacheView) {
    let reasons = Counters::default();
    for ReasonView { reason, kind, count } in &cache.reasons {
        reasons.get_or_create(&CacheLabels { kind, reason }).inc_by(*count);
    }
    registry.register(
        "cache",
        "Statements and batches by whether they were answered from memory, and why",
        reasons,
    );
    let fills = Counters::default();
    for (outcome, count) in &cache.fills {
        fills.get_or_create(&OutcomeLabel { outcome }).inc_by(*count);
    }
    registry.register("cache_fills", "Results that were to be kept, by what became of them", fills);
    let gauges = [
        (
            "cache_entries",
            "Results that are kept, void ones that nobody asked for yet among them",
            cache.entries,
        ),
        ("cache_size_bytes", "Memory that they take, with their keys and all", cache.bytes),
        ("cache_max_bytes", "Memory that they may take", cache.bytes_max),
        ("cache_flights", "Results that are being fetched to be kept", cache.flights),
    ];
    for (name, help, value) in gauges {
        let gauge: Gauge<i64, AtomicI64> = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        match name.strip_suffix("_bytes") {
            Some(name) => registry.register_with_unit(name, help, Unit::Bytes, gauge),
            None => registry.register(name, help, gauge),
        }
    }
    let counters = [
        ("cache_evicted", "Results that went to make room", cache.evicted),
        ("cache_compared", "Hits that were compared with the primary", cache.compared),
        ("cache_mismatches", "Hits that differed from the primary", cache.mismatches),
    ];
    for (name, help, value) in counters {
        let counter: Counter<u64, AtomicU64> = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    let hit_bytes: Counter<u64, AtomicU64> = Counter::default();
    hit_bytes.inc_by(cache.hit_bytes);
    registry.register_with_unit("cache_hit", "Bytes of rows from memory", Unit::Bytes, hit_bytes);
    let saved: Counter<f64, AtomicU64> = Counter::default();
    saved.inc_by(cache.saved_seconds);
    registry.register_with_unit("cache_saved", "Time that hits saved servers", Unit::Seconds, saved);
    if let Some(shared) = &cache.shared {
        of_shared(registry, shared);
    }
}

fn of_shared(registry: &mut Registry, shared: &SharedView) {
    let outcomes = Counters::default();
    for (outcome, count) in &shared.counts {
        outcomes.get_or_create(&OutcomeLabel { outcome }).inc_by(*count);
    }
    registry.register("shared_cache", "What was asked of the store that Weirs share, and told it", outcomes);
    let gauges = [
        (
            "shared_cache_connected",
            "1 if all our invalidations have reached the store",
            usize::from(shared.connected),
        ),
        ("shared_cache_trusted_databases", "Databases whose results there are believed", shared.trusted),
    ];
    for (name, help, value) in gauges {
        let gauge: Gauge<i64, AtomicI64> = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
}
