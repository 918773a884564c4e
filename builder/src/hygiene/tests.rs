use super::*;

fn rules(path: &str, mode: u32, looked: Looked<'_>) -> Vec<Rule> {
    look(path, mode, looked).into_iter().map(|f| f.rule).collect()
}

fn file(path: &str, bytes: &str) -> Vec<Rule> {
    rules(path, 0o644, Looked::File(bytes.as_bytes()))
}

#[test]
fn every_rule_finds_what_is_planted_and_lets_its_harmless_twin_pass() {
    for (path, bad, good, rule) in [
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n", "", Rule::MachineId),
        ("etc/machine-id", "uninitialized\n", "", Rule::MachineId),
        ("var/lib/dbus/machine-id", "0123", "", Rule::MachineId),
        ("var/cache/debconf/templates.dat", "Name: x", "", Rule::PackageCache),
        ("var/lib/apt/lists/a_Packages", "Package: x", "", Rule::PackageCache),
        ("var/cache/apt/pkgcache.bin", "x", "", Rule::PackageCache),
        ("var/lib/dpkg/status-old", "x", "", Rule::PackageCache),
        ("etc/shadow", "root:$y$j9T$x:1::::::\n", "root:*:1::::::\na:!:\nb:!*:1\nc:!!:\n", Rule::Password),
        ("etc/shadow", "a:!:\nroot::1::::::\n", "", Rule::Password),
        ("etc/gshadow", "adm:$6$x::\n", "adm:*::\na:!::\nb:::\n", Rule::Password),
        ("etc/passwd", "root::0:0::/root:/bin/sh\n", "root:x:0:0::/root:/bin/sh\n", Rule::Password),
    ] {
        assert_eq!(file(path, bad), [rule], "{path}: {bad}");
        assert_eq!(file(path, good), [], "{path}: {good}");
    }
    for (path, rule) in [
        ("etc/ssh/ssh_host_ed25519_key", Rule::SshHostKey),
        ("var/lib/systemd/random-seed", Rule::RandomSeed),
        ("var/log/dpkg.log", Rule::Log),
        ("var/log/apt/history.log", Rule::Log),
    ] {
        assert_eq!(file(path, "x"), [rule], "{path}");
    }
    for path in ["etc/ssh/sshd_config", "var/logs", "usr/lib/systemd/systemd-random-seed", "var/lib/dpkg/status"] {
        assert_eq!(file(path, "x"), [], "{path}");
    }
}

#[test]
fn what_everybody_may_write_is_found_unless_it_is_sticky() {
    assert_eq!(rules("opt", 0o777, Looked::Directory), [Rule::WorldWritable]);
    assert_eq!(rules("tmp", 0o1777, Looked::Directory), []);
    assert_eq!(rules("etc/a", 0o666, Looked::File(b"")), [Rule::WorldWritable]);
    // The sticky bit means nothing on a file.
    assert_eq!(rules("etc/a", 0o1666, Looked::File(b"")), [Rule::WorldWritable]);
    assert_eq!(rules("etc/a", 0o664, Looked::File(b"")), []);
}

#[test]
fn all_findings_and_all_useless_allowances_come_at_once() {
    let finding = |path: &str, rule| Finding { path: path.into(), rule, what: "seen".into() };
    let allow = |path: &str, rule| Allowance { path: path.into(), rule, reason: "because".into() };
    let findings = vec![finding("b", Rule::Log), finding("a", Rule::Secret), finding("c", Rule::Log)];
    // An allowance is for one path and one rule.
    let allowed = [allow("c", Rule::Log), allow("a", Rule::Log), allow("d", Rule::Secret)];
    let unclean = judge(findings, &allowed).unwrap_err();
    assert_eq!(
        unclean.to_string(),
        "the image would hold what must not be in one:\n  /a: seen [secret]\n  /b: seen [log]\n  \
         /a: allowed, and breaks no rule [log]\n  /d: allowed, and breaks no rule [secret]"
    );
    assert_eq!(judge(vec![finding("c", Rule::Log)], &allowed[..1]), Ok(()));
}

#[test]
fn every_rule_has_a_word_of_its_own() {
    for (word, rule) in Rule::WORDS {
        assert_eq!(rule.word(), word);
        assert_eq!(serde_json::to_value(rule).unwrap(), word);
    }
}
