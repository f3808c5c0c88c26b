//! The program as a shell sees it: exit codes, and what goes to which stream.

use std::process::{Command, Output};

fn weir(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

fn text(stream: &[u8]) -> String {
    String::from_utf8(stream.to_vec()).unwrap()
}

#[test]
fn all_config_mistakes_go_to_standard_error_with_exit_code_2() {
    for command in [&["serve"][..], &["check"], &["why", "SELECT 1"]] {
        let output = weir(
            &[command, &["--workers", "many", "--listen", "nowhere"]].concat(),
            &[("WEIR_PRIMARY", "postgres://app:topsecret@db1:port/app")],
        );
        assert_eq!(output.status.code(), Some(2));
        let stderr = text(&output.stderr);
        assert_eq!(stderr.lines().count(), 3, "{stderr}");
        assert!(
            stderr.contains("command line: --workers: expected a number from 0 to 256, got \"many\""),
            "{stderr}"
        );
        assert!(!stderr.contains("topsecret"));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_command_line_is_checked_with_exit_code_2() {
    for arguments in [&["serv"][..], &["serve", "--nonsense"], &["demo", "--replicas", "99"], &[]] {
        assert_eq!(weir(arguments, &[]).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn version_and_help_go_to_standard_output() {
    let version = weir(&["--version"], &[]);
    assert_eq!(text(&version.stdout).trim(), concat!("weir ", env!("CARGO_PKG_VERSION")));
    let help = weir(&["serve", "--help"], &[]);
    assert!(help.status.success());
    for word in
        ["--primary", "--replica", "--listen", "--http", "--config", "--workers", "--log", "WEIR_PRIMARY"]
    {
        assert!(text(&help.stdout).contains(word), "{word}");
    }
}
