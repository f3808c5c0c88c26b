//! Configurations and what is said of them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use weir::config::{
    AuthMethod, ConnectionKind, Consistency, Flags, HostAddress, HostSettings, ListenAddress, Machine,
    PoolMode, Secret, Settings, SslMode, load,
};

const PRIMARY: &str = "postgres://app:secret@db1/app";

/// Loads with a file `config/weir.toml` of this content and some PEM files beside it.
fn load_with(flags: &Flags, environment: &[(&str, &str)], toml: &str) -> Result<Settings, String> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let environment: BTreeMap<_, _> = environment.collect();
    let pem = |label: &str| Ok(format!("-----BEGIN {label}-----\n-----END {label}-----\n").into_bytes());
    let read = |path: &Path| match path.to_str().unwrap() {
        "config/weir.toml" => Ok(toml.as_bytes().to_vec()),
        "config/latin1.toml" => Ok(vec![0xe9]),
        "config/server.crt" | "/ca.crt" | "/etc/ssl/cert.pem" => pem("CERTIFICATE"),
        "config/server.key" => pem("EC PRIVATE KEY"),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such file")),
    };
    load(flags, &Machine { environment: &environment, cores: 8, read: &read })
        .map_err(|mistakes| mistakes.to_string())
}

fn file() -> Flags {
    Flags { config: Some("config/weir.toml".into()), ..Flags::default() }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn mistakes_name_line_key_and_what_was_expected() {
    super::check("config.txt", |toml| match load_with(&file(), &[], toml) {
        Ok(_) => "ok".to_owned(),
        Err(mistakes) => mistakes,
    });
}

#[test]
fn a_url_alone_makes_a_useful_proxy() {
    let settings = Settings::from_url(PRIMARY).unwrap();
    assert_eq!(settings.listen, [ListenAddress::Tcp("127.0.0.1:6432".parse().unwrap())]);
    assert_eq!(settings.http, None);
    assert_eq!(settings.hosts.len(), 1);
    assert_eq!(settings.hosts[0].name, "primary");
    assert_eq!(settings.hosts[0].address, HostAddress::Tcp { host: "db1".to_owned(), port: 5432 });
    assert_eq!(settings.servers.ssl_mode, SslMode::Prefer);
    assert_eq!(settings.databases.keys().collect::<Vec<_>>(), ["*"]);
    assert!(settings.users["app"].secret == Some(Secret::Plain("secret".to_owned())));
    assert!(settings.auth_query.unwrap().query.contains("pg_authid"));
    let methods: Vec<_> = settings.access.iter().map(|rule| (rule.connection, rule.method)).collect();
    let scram = AuthMethod::ScramSha256;
    assert_eq!(methods, [(ConnectionKind::Local, scram), (ConnectionKind::Host, scram)]);
    assert_eq!(settings.console.admin_users, ["app"]);
    assert_eq!((settings.clients.max, settings.clients.message_bytes_max), (10_000, 1 << 30));
    assert_eq!((settings.pool.mode, settings.pool.max), (PoolMode::Transaction, 20));
    assert_eq!(settings.pool.lifetime, Some(Duration::from_secs(3600)));
    assert!(settings.prepared.unnamed);
}

#[test]
fn documented_defaults_are_those_of_the_code() {
    let documented = include_str!("../../config/weir.toml");
    let is_key =
        |line: &str| line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase());
    let uncommented = |line: &str| {
        if is_key(line) { line[1..].to_owned() } else { line.to_owned() }
    };
    let all_written = documented.lines().map(uncommented).collect::<Vec<_>>().join("\n");

    let defaults = load_with(&file(), &[], documented).unwrap();
    assert_eq!(load_with(&file(), &[], &all_written), Ok(defaults.clone()));
    assert_eq!(load_with(&url_flag("postgres://app:secret@127.0.0.1:5432/app"), &[], ""), Ok(defaults));
}

/// The keys are read off the source, so that a new one cannot be forgotten in the documented file.
#[test]
fn every_key_is_documented() {
    let documented = include_str!("../../config/weir.toml");
    let sources = [
        include_str!("../../src/config/cache.rs"),
        include_str!("../../src/config/check.rs"),
        include_str!("../../src/config/hosts.rs"),
        include_str!("../../src/config/insight.rs"),
        include_str!("../../src/config/logins.rs"),
        include_str!("../../src/config/splitting.rs"),
    ];
    let calls = [".read(", ".written(", ".list(", "texts(root,", "text(root,", "= file(", ": names("];
    let first_text = |code: &'static str| code.trim_start().strip_prefix('"')?.split('"').next();
    let mut keys = Vec::new();
    for (source, call) in sources.into_iter().flat_map(|source| calls.map(|call| (source, call))) {
        keys.extend(source.split(call).skip(1).filter_map(first_text));
    }
    assert!(keys.len() > 35, "{keys:?}");
    let is_documented = |key: &str| {
        documented.lines().any(|line| {
            let line = line.trim_start_matches(['#', ' ']);
            line.strip_prefix(key).is_some_and(|rest| rest.starts_with(" = "))
        })
    };
    let missing: Vec<_> = keys.into_iter().filter(|key| !is_documented(key)).collect();
    assert!(missing.is_empty(), "not in config/weir.toml: {missing:?}");
}

#[test]
fn splitting_wants_a_replica_and_databases_their_own_consistency() {
    let toml = "primary = 'postgres://app@db1'\nreplicas = ['postgres://db2']\n[splitting]\nenabled = 'auto'\n\
                consistency = 'session'\n[databases.a]\n[databases.b]\nconsistency = 'bounded'";
    let settings = load_with(&file(), &[], toml).unwrap();
    assert!(settings.splitting.is_on(settings.hosts.len()) && !settings.splitting.is_on(1));
    assert_eq!(settings.databases["a"].consistency, Consistency::Session);
    assert_eq!(settings.databases["b"].consistency, Consistency::Bounded);
    let settings = load_with(&file(), &[], &toml.replace("'auto'", "true")).unwrap();
    assert!(settings.splitting.is_on(2));
    let settings = load_with(&file(), &[], &toml.replace("enabled = 'auto'", "")).unwrap();
    assert!(settings.splitting.is_on(2) && !settings.splitting.is_on(1), "by default");
    let settings = load_with(&file(), &[], &toml.replace("'auto'", "false")).unwrap();
    assert!(!settings.splitting.is_on(2));
}

fn url_flag(url: &str) -> Flags {
    Flags { primary: Some(url.to_owned()), ..Flags::default() }
}

#[test]
fn flags_win_over_environment_over_file() {
    let toml = "primary = 'postgres://app@file'\nlisten = ['127.0.0.1:1']\nhttp = '127.0.0.1:2'\nworkers = 3";
    let hosts = |settings: &Settings| {
        let shown = |host: &HostSettings| match &host.address {
            HostAddress::Tcp { host, port } => format!("{host}:{port}"),
            HostAddress::Unix(path) => path.display().to_string(),
        };
        settings.hosts.iter().map(shown).collect::<Vec<_>>()
    };
    let environment = [
        ("WEIR_CONFIG", "config/weir.toml"),
        ("WEIR_PRIMARY", "postgres://app@env"),
        ("WEIR_REPLICAS", "postgres://r1, postgres://r2"),
        ("WEIR_LISTEN", "127.0.0.1:10,/run/weir"),
        ("WEIR_HTTP", ""),
    ];
    let settings = load_with(&Flags::default(), &environment, toml).unwrap();
    assert_eq!(hosts(&settings), ["env:5432", "r1:5432", "r2:5432"]);
    assert_eq!(settings.listen.len(), 2);
    assert_eq!(settings.http, Some("127.0.0.1:2".parse().unwrap()));
    assert_eq!(settings.workers, 3);

    let flags = Flags {
        primary: Some("postgres://app@flag:7000".to_owned()),
        replicas: strings(&["postgres://r3"]),
        listen: strings(&["127.0.0.1:20"]),
        http: Some("off".to_owned()),
        workers: Some("0".to_owned()),
        log: Some("debug".to_owned()),
        ..Flags::default()
    };
    let settings = load_with(&flags, &environment, toml).unwrap();
    assert_eq!(hosts(&settings), ["flag:7000", "r3:7000"]);
    assert_eq!(settings.listen, [ListenAddress::Tcp("127.0.0.1:20".parse().unwrap())]);
    assert_eq!((settings.http, settings.workers), (None, 4));
    assert_eq!(settings.log.level, "debug");
}

#[test]
fn mistakes_in_flags_and_environment_name_them() {
    let flags = Flags {
        replicas: strings(&["db2:5432"]),
        workers: Some("many".to_owned()),
        log: Some("loud".to_owned()),
        ..Flags::default()
    };
    let environment = [("WEIR_PRIMARY", "postgres://db1"), ("WEIR_LISTEN", "here"), ("WEIR_HTTP", "there")];
    let mistakes = load_with(&flags, &environment, "").unwrap_err();
    let places: Vec<_> = mistakes.lines().map(|line| line.split(": expected").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "environment: WEIR_LISTEN",
            "environment: WEIR_HTTP",
            "command line: --workers",
            "command line: --replica",
            "environment: WEIR_PRIMARY",
            "command line: --log",
        ]
    );
}

#[test]
fn nothing_at_all_says_what_is_needed() {
    let mistakes = load_with(&Flags::default(), &[], "").unwrap_err();
    assert_eq!(
        mistakes,
        "command line: primary: expected the URL of a server (--primary, WEIR_PRIMARY, or primary in the file), got none"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake() {
    for name in ["config/absent.toml", "config/latin1.toml"] {
        let flags = Flags { config: Some(name.into()), workers: Some("x".to_owned()), ..Flags::default() };
        let mistakes = load_with(&flags, &[], "").unwrap_err();
        assert!(
            mistakes.starts_with(&format!("{name}: expected a file that can be read, got ")),
            "{mistakes}"
        );
    }
}

#[test]
fn limits_of_databases_and_users_are_merged() {
    let toml = r#"
        primary = "postgres://app:secret@db1/app"
        [pool]
        max = 8
        min = 4
        [databases.app]
        dbname = "app_production"
        connections_max = 50
        pool.max = 2
        pool.mode = "session"
        [databases."*"]
        [users.app]
        pool_max = 3
        [users.reader]
        password = "md589ABCDEF89abcdef89abcdef89abcdef"
        pool_mode = "session"
    "#;
    let settings = load_with(&file(), &[], toml).unwrap();
    let app = &settings.databases["app"];
    assert_eq!((app.pool.max, app.pool.min, app.pool.mode), (2, 2, PoolMode::Session));
    assert_eq!((app.dbname.as_deref(), app.connections_max), (Some("app_production"), Some(50)));
    assert_eq!(settings.databases["*"].pool, settings.pool);
    assert!(settings.users["app"].secret == Some(Secret::Plain("secret".to_owned())));
    assert_eq!(settings.users["app"].pool_max, Some(3));
    let verifier = Secret::Verifier("md589abcdef89abcdef89abcdef89abcdef".to_owned());
    assert!(settings.users["reader"].secret == Some(verifier));
}

#[test]
fn certificates_are_read_beside_the_file() {
    let toml = r#"
        primary = "postgres://app@db1/app?sslmode=require&sslrootcert=/ca.crt"
        access = ["hostssl all all all cert"]
        [clients.tls]
        certificate = "server.crt"
        key = "server.key"
        client_ca = "server.crt"
    "#;
    let settings = load_with(&file(), &[], toml).unwrap();
    assert_eq!(settings.servers.ssl_mode, SslMode::VerifyCa, "require with authorities, as in libpq");
    assert!(settings.servers.ca_pem.is_some());
    assert!(settings.clients.tls.unwrap().client_ca_pem.is_some());

    let system =
        load_with(&url_flag("postgres://app@db1?sslmode=verify-full&sslrootcert=system"), &[], "").unwrap();
    assert!(system.servers.ca_pem.is_some());
}

#[test]
fn no_mistake_and_no_debug_print_shows_a_password() {
    let toml =
        "primary = 'postgres://app:topsecret@db1:x/app'\n[users.a]\npassword = 'SCRAM-SHA-256$topsecret'";
    assert!(!load_with(&file(), &[], toml).unwrap_err().contains("topsecret"));
    let settings = load_with(&url_flag("postgres://app:topsecret@db1/app"), &[], "").unwrap();
    assert!(!format!("{settings:?}").contains("topsecret"));
}
