//! What may be kept, and what tells results apart.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use weir::cache::{Key, KeyView, Request, Scope, may_keep, rules_for, terms};
use weir::catalog::{Catalog, SearchPath};
use weir::config::{CacheAction, CacheRule, CacheSettings};
use weir::sql::analyze;
use weir::sql::classify::classify_anywhere;

#[test]
fn rule() {
    let catalog = super::effect::by_hand();
    super::table::check("cache_rule.txt", |input| verdict(&catalog, input));
}

/// Lines in front of the text: `path LIST`, `temporary`, `user NAME`, `rule KEY=VALUE ...`.
fn verdict(catalog: &Catalog, input: &str) -> String {
    let mut settings = CacheSettings::default();
    let mut path = catalog.default_search_path("app").unwrap();
    let mut user = "app";
    let mut text = input;
    while let Some((line, rest)) = text.split_once('\n') {
        let (word, value) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "path" => path = SearchPath::from_value(value, user).unwrap(),
            "temporary" => path = path.with_temporary(),
            "user" => user = value,
            "rule" => settings.rules.push(read_rule(value)),
            _ => break,
        }
        text = rest;
    }
    let analysis = analyze(text.as_bytes(), true);
    let classes = classify_anywhere(text.as_bytes(), true, &analysis);
    let effect = catalog.effect(&analysis, &classes, &path);
    let reads = &effect.reads.relations;
    let kept = may_keep(&effect, &classes).and_then(|()| {
        let rules = rules_for(&settings, Some(catalog), "app", analysis.fingerprint, reads);
        terms(&analysis, &settings, &rules, user)
    });
    match kept {
        Ok(terms) => {
            let mut names: Vec<_> = reads.iter().map(|id| catalog.relation_name(*id).unwrap()).collect();
            names.sort();
            let when = if terms.at_once { "at once" } else { "when hot" };
            let default = CacheSettings::default();
            let mut line = format!("{when} | {}", names.join(" "));
            if effect.row_security {
                line.push_str(" | row_security");
            }
            if terms.ttl != default.ttl {
                write!(line, " | ttl {:?}", terms.ttl).unwrap();
            }
            if terms.max_entry != default.max_entry {
                write!(line, " | max_entry {}", terms.max_entry).unwrap();
            }
            line
        }
        Err(reason) => format!("no | {} | {}", reason.kind(), reason.as_str()),
    }
}

fn read_rule(words: &str) -> CacheRule {
    let mut rule = CacheRule {
        name: String::new(),
        table: None,
        fingerprint: None,
        database: None,
        user: None,
        action: CacheAction::Hot,
        ttl: None,
        max_entry: None,
    };
    for word in words.split(' ') {
        match word.split_once('=').unwrap() {
            ("table", name) => rule.table = Some(name.to_owned()),
            ("user", name) => rule.user = Some(name.to_owned()),
            ("database", name) => rule.database = Some(name.to_owned()),
            ("fingerprint", hex) => rule.fingerprint = Some(u64::from_str_radix(hex, 16).unwrap()),
            ("ttl", seconds) => rule.ttl = Some(Duration::from_secs(seconds.parse().unwrap())),
            ("max_entry", bytes) => rule.max_entry = Some(bytes.parse().unwrap()),
            ("cache", "never") => rule.action = CacheAction::Never,
            ("cache", "always") => rule.action = CacheAction::Always,
            ("cache", "hot") => rule.action = CacheAction::Hot,
            (other, _) => panic!("{other}"),
        }
    }
    rule
}

#[test]
fn key() {
    let hasher = RandomState::with_seeds(1, 2, 3, 4);
    super::table::check("cache_key.txt", |input| {
        let (one, two) = input.split_once('\n').unwrap();
        let (one, two) = (Side::read(one), Side::read(two));
        let (one_scope, two_scope) = (one.scope(&hasher), two.scope(&hasher));
        let one = KeyView::new(&hasher, &one_scope, one.request()).unwrap();
        let two = KeyView::new(&hasher, &two_scope, two.request()).unwrap();
        let is_same = Key::from(&one).is(&two);
        assert_eq!(is_same, Key::from(&two).is(&one));
        assert_eq!(is_same, one.hash() == two.hash());
        if is_same { "same" } else { "other" }.to_owned()
    });
}

/// One request: parts with `; ` between them, the text last.
struct Side {
    database: String,
    user: String,
    strings: bool,
    settings: Vec<(String, u8, Vec<u8>)>,
    types: Vec<u8>,
    parameters: Vec<u8>,
    formats: Vec<u8>,
    text: Vec<u8>,
}

impl Side {
    fn read(line: &str) -> Self {
        let mut side = Self {
            database: "app".to_owned(),
            user: "app".to_owned(),
            strings: true,
            settings: Vec::new(),
            types: Vec::new(),
            parameters: Vec::new(),
            formats: Vec::new(),
            text: Vec::new(),
        };
        let (parts, text) = line.split_at(line.find("text ").unwrap());
        for part in parts.split("; ").filter(|part| !part.is_empty()).chain([text]) {
            let (word, value) = part.split_once(' ').unwrap();
            match word {
                "database" => value.clone_into(&mut side.database),
                "user" => value.clone_into(&mut side.user),
                "strings" => side.strings = value == "on",
                "set" | "startup" => {
                    let (name, value) = value.split_once('=').unwrap();
                    let written = u8::from(word == "startup");
                    side.settings.push((name.to_owned(), written, value.as_bytes().to_vec()));
                }
                "types" => side.types = hex(value),
                "parameters" => side.parameters = hex(value),
                "formats" => side.formats = hex(value),
                "text" => {
                    let analysis = analyze(value.as_bytes(), side.strings);
                    side.text = analysis.single().unwrap().span.of(value.as_bytes()).to_vec();
                }
                other => panic!("{other}"),
            }
        }
        // As a session's settings are: in the order of their names.
        side.settings.sort();
        side
    }

    fn scope(&self, hasher: &RandomState) -> Arc<Scope> {
        let settings = self.settings.iter().map(|(name, written, value)| (&**name, *written, &**value));
        Arc::new(Scope::new(hasher, &self.database, &self.user, self.strings, settings))
    }

    fn request(&self) -> Request<'_> {
        Request { text: &self.text, types: &self.types, parameters: &self.parameters, formats: &self.formats }
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}
