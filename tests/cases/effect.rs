//! Statements and their effects.

use std::collections::HashMap;
use std::sync::Arc;

use weir::catalog::node_tree::Tree;
use weir::catalog::source::{
    Cast, Function, Kind, Operator, Relation, Rule, Schema, SearchPaths, Source, Type,
};
use weir::catalog::{Catalog, Declared, Effect, SearchPath, Touched, Volatility};
use weir::pg::Oid;
use weir::sql::analyze;
use weir::sql::classify::classify_anywhere;

#[test]
fn check() {
    check_with(&by_hand());
}

#[test]
fn operators_of_ones_own_run_unwritten() {
    let catalog =
        Catalog::build(read(&format!("{}\noperator = s", include_str!("effect_catalog.txt"))), 1, 0);
    let path = catalog.default_search_path("app").unwrap();
    let text = b"SELECT '1'::mood IN ('2')";
    let analysis = analyze(text, true);
    let classes = classify_anywhere(text, true, &analysis);
    assert_eq!(catalog.effect(&analysis, &classes, &path).volatility, Volatility::TransactionTime);
}

/// The catalog of `effect_catalog.txt`.
pub(crate) fn by_hand() -> Catalog {
    Catalog::build(read(include_str!("effect_catalog.txt")), 1, 0)
}

/// Holds the table against any catalog that has the same objects.
pub(crate) fn check_with(catalog: &Catalog) {
    let usual = catalog.default_search_path("app").unwrap();
    super::table::check("effect.txt", |input| {
        let (mut path, mut text) = (usual.clone(), input);
        if let Some((first, rest)) = input.split_once('\n') {
            if let Some(value) = first.strip_prefix("path ") {
                (path, text) = (SearchPath::from_value(value, "app").unwrap(), rest);
            } else if first == "temporary" {
                (path, text) = (path.with_temporary(), rest);
            }
        }
        let analysis = analyze(text.as_bytes(), true);
        let classes = classify_anywhere(text.as_bytes(), true, &analysis);
        line(catalog, &catalog.effect(&analysis, &classes, &path))
    });
}

fn line(catalog: &Catalog, effect: &Effect) -> String {
    let mut parts = vec![match effect.on_primary {
        Some(why) => format!("primary {}", why.as_str()),
        None => "anywhere".to_owned(),
    }];
    parts.push(effect.volatility.as_str().to_owned());
    let mut add = |what: &str, touched: &Touched| {
        let mut names: Vec<String> =
            touched.relations.iter().map(|id| catalog.relation_name(*id).unwrap()).collect();
        names.sort();
        names.extend(touched.catalogs.then(|| "catalogs".to_owned()));
        names.extend(touched.everything.then(|| "everything".to_owned()));
        if !names.is_empty() {
            parts.push(format!("{what} {}", names.join(" ")));
        }
    };
    add("reads", &effect.reads);
    add("writes", &effect.writes);
    let facts = [
        (effect.is_ddl, "ddl"),
        (effect.row_security, "row_security"),
        (effect.changes_names, "changes_names"),
    ];
    parts.extend(facts.into_iter().filter(|(holds, _)| *holds).map(|(_, word)| word.to_owned()));
    parts.join(" | ")
}

/// Reads a catalog from its text.
fn read(text: &str) -> Source {
    let mut reader = Reader::default();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        reader.line(words[0], &words[1..]);
    }
    reader.source.search_paths =
        SearchPaths { of_server: Some("\"$user\", public".into()), ..SearchPaths::default() };
    reader.source
}

#[derive(Default)]
struct Reader {
    source: Source,
    oids: HashMap<String, Oid>,
    last: u32,
}

impl Reader {
    fn line(&mut self, what: &str, words: &[&str]) {
        let first = words.first().copied().unwrap();
        match what {
            "schema" => {
                let oid = self.new_oid(first, 11);
                self.source.schemas.push(Schema { oid, name: first.into() });
            }
            "table" => words.iter().for_each(|name| self.relation(name, Kind::Table)),
            "partitioned" => words.iter().for_each(|name| self.relation(name, Kind::Partitioned)),
            "sequence" => words.iter().for_each(|name| self.relation(name, Kind::Sequence)),
            "foreign" => words.iter().for_each(|name| self.relation(name, Kind::Foreign)),
            "unlogged" => {
                self.relation(first, Kind::Table);
                self.source.relations.last_mut().unwrap().is_unlogged = true;
            }
            "system_table" => self.system_relation(first, Kind::Table),
            "system_view" => {
                self.system_relation(first, Kind::View);
                self.rule(&format!("pg_catalog.{first}"), &words[1..], true);
            }
            "view" | "materialized_view" => {
                let kind = if what == "view" { Kind::View } else { Kind::MaterializedView };
                self.relation(first, kind);
                self.rule(first, &words[1..], true);
            }
            "write_rule" => self.rule(first, &[], false),
            "policy" => {
                let policy = (self.oid(first), self.tree(&words[1..]));
                self.source.policies.push(policy);
            }
            "row_security" => {
                let oid = self.oid(first);
                self.source.relations.iter_mut().find(|row| row.oid == oid).unwrap().has_row_security = true;
            }
            // What is said of relations that come further down.
            "trigger" => {
                for name in words {
                    let oid = self.oid(name);
                    self.source.triggers.push(oid);
                }
            }
            "write_call" => {
                let pair = (self.oid(first), self.oids[&format!("{}()", words[1])]);
                self.source.write_calls.push(pair);
            }
            "cascade" => {
                let pair = (self.oid(first), self.oid(words[1]));
                self.source.cascades.push(pair);
            }
            "partition" | "child" => {
                let pair = (self.oid(first), self.oid(words[1]));
                self.source.parents.push(pair);
                if what == "partition" {
                    self.source.relations.iter_mut().find(|row| row.oid == pair.0).unwrap().is_partition =
                        true;
                }
            }
            "builtin" => {
                let (schema, oid) = (self.oids["pg_catalog"], self.new_oid(&format!("{first}()"), 100));
                self.function(oid, schema, first, words);
            }
            "function" => {
                let (schema, name) = self.qualified(first);
                let oid = self.new_oid(&format!("{name}()"), 20_000);
                self.function(oid, schema, &name, words);
            }
            "row_function" => {
                let (schema, name) = self.qualified(first);
                let oid = self.new_oid(&format!("{name}()"), 20_000);
                self.function(oid, schema, &name, &[&name, "1", "1", words[1]]);
                self.source.functions.last_mut().unwrap().takes_row = true;
            }
            "builtin_type" => {
                for name in words {
                    let (oid, schema) = (self.new_oid(&format!("{name}:"), 200), self.oids["pg_catalog"]);
                    let name = (*name).into();
                    self.source.types.push(Type { oid, schema, name, input: Declared::Stable });
                }
            }
            "type" => {
                let (schema, name) = self.qualified(first);
                let oid = self.new_oid(&format!("{name}:"), 20_000);
                let input = Declared::from_letter(words[1].as_bytes()[0]);
                self.source.types.push(Type { oid, schema, name: name.into(), input });
            }
            "domain_check" => {
                let tree = self.tree(&words[1..]);
                let domain = self.oids[&format!("{first}:")];
                self.source.domain_checks.push((domain, tree));
            }
            "part" => {
                let pair = [first, words[1]].map(|name| self.oids[&format!("{name}:")]);
                self.source.type_parts.push(pair.into());
            }
            "row_part" => {
                let row = Oid(self.oid(first).0 + 50_000);
                self.source.type_parts.push((row, self.oids[&format!("{}:", words[1])]));
            }
            "operator" => {
                let declared = Declared::from_letter(words[1].as_bytes()[0]);
                let oid = self.new_oid(&format!("{first}:operator"), 20_000);
                self.source.operators.push(Operator { oid, name: first.into(), declared, in_c: false });
            }
            "cast" => {
                let (target, declared) =
                    (self.oids[&format!("{first}:")], Declared::from_letter(words[1].as_bytes()[0]));
                self.source.casts.push(Cast { target, declared, in_c: false, is_implicit: false });
            }
            _ => panic!("{what}"),
        }
    }

    fn new_oid(&mut self, name: &str, base: u32) -> Oid {
        self.last += 1;
        let oid = Oid(base + self.last);
        self.oids.insert(name.to_owned(), oid);
        oid
    }

    fn qualified(&self, name: &str) -> (Oid, String) {
        let (schema, name) = name.split_once('.').unwrap_or(("public", name));
        (self.oids[schema], name.to_owned())
    }

    /// Of a relation, which need not have been named yet.
    fn oid(&mut self, name: &str) -> Oid {
        let known = self.oids.get(name).copied();
        known.unwrap_or_else(|| self.new_oid(name, 20_000))
    }

    fn relation(&mut self, name: &str, kind: Kind) {
        let (schema, bare) = self.qualified(name);
        let oid = self.oid(name);
        self.push(oid, schema, &bare, kind);
    }

    fn system_relation(&mut self, name: &str, kind: Kind) {
        let (oid, schema) = (self.new_oid(&format!("pg_catalog.{name}"), 1000), self.oids["pg_catalog"]);
        self.push(oid, schema, name, kind);
    }

    fn push(&mut self, oid: Oid, schema: Oid, name: &str, kind: Kind) {
        self.source.relations.push(Relation {
            oid,
            schema,
            name: name.into(),
            kind,
            is_unlogged: false,
            is_partition: false,
            has_row_security: false,
            row_type: Oid(oid.0 + 50_000),
        });
    }

    fn rule(&mut self, name: &str, words: &[&str], on_select: bool) {
        let tree = Arc::new(self.tree(words));
        let relation = self.oid(name);
        let oid = self.new_oid(&format!("{name}!"), 20_000);
        self.source.rules.push(Rule { oid, xmin: 1, relation, on_select, tree });
    }

    /// `reads a b calls f g operators ### time locks`
    fn tree(&mut self, words: &[&str]) -> Tree {
        let (mut tree, mut list) = (Tree::default(), "");
        for &word in words {
            match (word, list) {
                ("reads" | "calls" | "operators", _) => list = word,
                ("time", _) => tree.names_time = true,
                ("locks", _) => tree.locks_rows = true,
                (name, "reads") => tree.relations.push(self.oid(name)),
                (name, "operators") => tree.operators.push(self.oids[&format!("{name}:operator")]),
                (name, "calls") => tree.functions.push(self.oids[&format!("{name}()")]),
                _ => panic!("{word}"),
            }
        }
        tree
    }

    fn function(&mut self, oid: Oid, schema: Oid, name: &str, words: &[&str]) {
        self.source.functions.push(Function {
            oid,
            schema,
            name: name.into(),
            declared: Declared::from_letter(words[3].as_bytes()[0]),
            arguments_min: words[1].parse().unwrap(),
            arguments_max: words[2].parse().unwrap(),
            takes_row: false,
            in_c: words.get(4) == Some(&"c"),
        });
    }
}
