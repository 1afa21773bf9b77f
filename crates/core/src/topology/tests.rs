//! What topology files say, and what is wrong with bad ones.

use super::*;
use crate::topology::*;
use proptest::prelude::*;

/// Section 2 of the interface, word for word.
const EXAMPLE: &str = r#"[node]
name   = "alice-phone"
data   = "alice"                  # directory of this node's files, relative to this file
listen = "127.0.0.1:7401"         # optional: accept sessions (a hub, a parent, a mesh member)
admin  = "127.0.0.1:7400"         # optional: HTTP API and visualizer; loopback unless `admin_token_file` is set
tls    = { cert = "c.pem", key = "k.pem" }        # optional
token_file = "alice.jwt"          # optional: who this node is to others
clock_drift_limit = "5m"

[auth]                            # for nodes that listen
anonymous  = false                # true: no tokens; allowed on loopback, elsewhere only with `insecure = true`
issuers    = [{ name = "self", key_file = "issuer.pub" }]      # or jwks_file

[databases.bugs]
file     = "bugs.blazedb"         # default: NAME.blazedb
password_env = "BUGS_PASSWORD"    # or password_file; or `plaintext = true`
durability = "full"               # or "normal"
indexes  = ["priority", "teamId"]
search   = ["title", "description"]
pattern  = "hub-and-spoke"        # mesh | star | hierarchical | chain | broadcast | aggregation | local-only (default)
hub      = "ws://127.0.0.1:7500"  # star: parent + role; hierarchical: master + edges = [..]; chain: upstream; broadcast: source; aggregation: sink; mesh: peers = [..], discover = true, fallback_to_local = true
remote   = "bugs"                 # the database's name over there; default: the same
remote_key = "..."                # optional: pinned fingerprint
mode     = "bidirectional"        # read-only | write-only | local-only

[databases.bugs.policy]
teams          = ["ios"]          # short for: teamId in [...]
where          = 'status != "archived" && priority > 5'
exclude_fields = ["largeAttachment"]
encryption     = "e2e-only"       # smart-proxy (default) | e2e-only | { seal = ["salary"] }
routing_fields = ["teamId"]       # stay readable under e2e-only
compression    = "auto"           # always | never
respect_rls    = true
on_left_filter = "remove"         # keep ; likewise on_access_revoked
release_after_ack = false

[[databases.bugs.links]]          # hybrid: further links beside the pattern's
pattern = "mesh"
peers   = ["ws://192.0.2.7:7401"]

[databases.users]                 # on a node that listens: how it is served
serve = "bidirectional"           # broadcast (clients only read) | aggregate (clients only write) | none (default)
[databases.users.access]          # filter language; absent = denied; `public = true` opens all
connect = 'true'
read    = 'record.public == true || record.teamId in user.teams'
insert  = 'record.teamId in user.teams'
update  = 'record.teamId in user.teams && old.teamId == record.teamId'
delete  = '"admin" in user.roles'
"#;

/// Stands for the filter language: refuses "BAD", where it stands.
fn check_filter(text: &str, _: FilterUse) -> Result<(), FilterTextError> {
    match text.find("BAD") {
        Some(at) => {
            let column = text[..at].chars().count() + 1;
            Err(FilterTextError { column, message: "a bad word".into() })
        }
        None => Ok(()),
    }
}

fn read_with(text: &str, passwords: PasswordRule) -> Result<TopologySpec, SpecError> {
    let env = |name: &str| match name {
        "HUB" => Some("ws://hub.example.com:7500".to_owned()),
        "EVIL" => Some("\"\nx = ${HUB}".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    };
    parse(text, &ParseContext { env: &env, check_filter: &check_filter, passwords })
}

fn read(text: &str) -> TopologySpec {
    read_with(text, PasswordRule::Optional).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn the_interfaces_example_says_what_it_says() {
    let spec = read(EXAMPLE);
    assert_eq!(spec.node.name, "alice-phone");
    assert_eq!(spec.node.listen.as_ref().unwrap().port(), 7401);
    assert_eq!(spec.node.clock_drift_limit.as_secs(), 300);
    assert_eq!(spec.auth.issuers[0].key, IssuerKey::KeyFile("issuer.pub".into()));

    let bugs = &spec.databases["bugs"];
    assert_eq!(bugs.password, PasswordSource::Env("BUGS_PASSWORD".into()));
    assert_eq!(bugs.indexes, ["priority", "teamId"]);
    let policy = &bugs.sync.policy;
    let e2e = EncryptionSpec::E2eOnly { routing_fields: vec!["teamId".into()] };
    assert_eq!(policy.encryption, e2e);
    let filter = policy.filter.as_ref().unwrap();
    assert_eq!((filter.line, filter.column), (28, 19));
    assert_eq!(bugs.links[0].policy, *policy, "a link without a policy has the database's");
    let names: Vec<_> = expand(bugs).unwrap().into_iter().map(|link| link.name).collect();
    assert_eq!(names, ["hub", "peer:ws://192.0.2.7:7401"]);

    let users = &spec.databases["users"];
    assert_eq!(users.serve, ServeMode::Bidirectional);
    assert_eq!(users.password, PasswordSource::None);
    assert_eq!(users.access.connect, Some(FilterText::new("true")));
    assert!(!users.access.public);
}

#[test]
fn opening_demands_a_password_and_looking_does_not() {
    let error = read_with(EXAMPLE, PasswordRule::Required).unwrap_err();
    assert_eq!(error.kind, SpecErrorKind::NoPassword("users".into()));
    assert_eq!((error.line, error.column), (41, 12));
}

#[test]
fn every_alternative_of_the_examples_comments_parses() {
    let bugs = |settings: &str| {
        let text =
            format!("[node]\nlisten = \"127.0.0.1:0\"\n[databases.bugs]\nplaintext = true\n{settings}\n");
        let spec = read_with(&text, PasswordRule::Required).unwrap_or_else(|e| panic!("{e}\n{text}"));
        spec.databases["bugs"].clone()
    };
    let at = |text: &str| text.parse::<Endpoint>().unwrap();
    let a = || at("ws://a:1");
    for (settings, pattern) in [
        ("", Pattern::LocalOnly),
        ("pattern = 'local-only'\nmode = 'local-only'", Pattern::LocalOnly),
        ("pattern = 'star'\nparent = 'ws://a:1'", Pattern::Star { role: StarRole::Child { parent: a() } }),
        (
            "pattern = 'star'\nrole = 'child'\nparent = 'ws://a:1'",
            Pattern::Star { role: StarRole::Child { parent: a() } },
        ),
        (
            "pattern = 'star'\nrole = 'parent'\nserve = 'bidirectional'",
            Pattern::Star { role: StarRole::Parent },
        ),
        (
            "pattern = 'hierarchical'\nmaster = 'ws://a:1'\nedges = ['ws://b', 'ws://c']",
            Pattern::Hierarchical { master: Some(a()), edges: vec![at("ws://b"), at("ws://c")] },
        ),
        ("pattern = 'chain'\nupstream = 'ws://a:1'", Pattern::Chain { upstream: a() }),
        ("pattern = 'broadcast'\nsource = 'ws://a:1'", Pattern::Broadcast { source: a() }),
        ("pattern = 'aggregation'\nsink = 'ws://a:1'", Pattern::Aggregation { sink: a() }),
        (
            "pattern = 'mesh'\npeers = ['ws://a:1']\ndiscover = true\nfallback_to_local = false",
            Pattern::Mesh { peers: vec![a()], discover: true, fallback_to_local: false },
        ),
    ] {
        let spec = bugs(settings);
        assert_eq!(spec.sync.pattern, pattern, "{settings}");
        assert_eq!(spec.sync.mode, pattern.kind().default_mode());
        assert_eq!(spec.file.to_str(), Some("bugs.blazedb"));
    }
    assert_eq!(bugs("durability = 'normal'").durability, Durability::Normal);
    assert_eq!(bugs("").tombstone_lease, std::time::Duration::from_secs(90 * 24 * 3_600));
    assert_eq!(
        bugs("tombstone_lease = '7d'").tombstone_lease,
        std::time::Duration::from_secs(7 * 24 * 3_600)
    );
    for (word, serve) in ServeMode::ALL {
        assert_eq!(bugs(&format!("serve = '{word}'")).serve, *serve);
    }
    let hub = "pattern = 'hub-and-spoke'\nhub = '${HUB}'\n";
    for mode in SyncMode::words() {
        assert_eq!(bugs(&format!("{hub}mode = '{mode}'")).sync.mode.as_str(), mode);
    }
    let policy = |text: &str| bugs(&format!("{hub}policy = {{ {text} }}")).sync.policy;
    assert_eq!(policy("encryption = 'smart-proxy'"), PolicySpec::default());
    let sealed = EncryptionSpec::Seal(vec!["salary".into()]);
    assert_eq!(policy("encryption = { seal = ['salary'] }").encryption, sealed);
    assert_eq!(policy("on_left_filter = 'keep'").on_left_filter, OnRemoval::Keep);
    assert_eq!(policy("on_access_revoked = 'keep'").on_access_revoked, OnRemoval::Keep);
    assert_eq!(policy("compression = 'never'").compression, Compression::Never);
    assert!(bugs("access = { public = true }").access.public);
}

#[test]
fn variables_are_replaced_in_values_and_never_read_as_toml() {
    let spec = read(
        "[databases.a]\npattern = 'hub-and-spoke'\nhub = '${HUB}'\npolicy = { where = 'x == \"$${HUB}\"' }",
    );
    let sync = &spec.databases["a"].sync;
    assert_eq!(sync.pattern, Pattern::HubAndSpoke { hub: "ws://hub.example.com:7500".parse().unwrap() });
    assert_eq!(sync.policy.filter.as_ref().unwrap().text, "x == \"${HUB}\"");
    let spec = read("[databases.a]\naccess = { read = '${EVIL}' }");
    assert_eq!(spec.databases["a"].access.read.as_ref().unwrap().text, "\"\nx = ${HUB}");
}

#[test]
fn a_further_link_is_not_wider_than_its_database_says() {
    let spec = read(
        "[databases.a]\npattern = 'hub-and-spoke'\nhub = 'ws://h'\nmode = 'read-only'\n\
         [[databases.a.links]]\npattern = 'mesh'\npeers = ['ws://p']\n\
         [[databases.a.links]]\npattern = 'mesh'\npeers = ['ws://q']\nmode = 'bidirectional'\n\
         policy = { teams = ['x'] }\nremote = 'b'",
    );
    let links = &spec.databases["a"].links;
    assert_eq!(links[0].mode, SyncMode::ReadOnly);
    assert_eq!((links[1].mode, links[1].remote.as_str()), (SyncMode::Bidirectional, "b"));
    assert_eq!(links[1].policy.teams, ["x"]);
}

#[test]
fn an_empty_file_is_a_node_that_does_nothing() {
    assert_eq!(read(""), TopologySpec::default());
}

/// A bad file, where it is wrong, and part of what is said. `|` stands for the end of a line.
const BAD: &[(&str, &str, &str)] = &[
    // TOML itself
    ("[node", "1:6", "unclosed table"),
    ("[node]|name = 'a'|name = 'b'", "3:1", "duplicate key"),
    // unknown keys
    ("[nodes]", "1:2", "unknown key `nodes` in the topology file; did you mean \"node\"?"),
    ("[node]|nmae = 'a'", "2:1", "unknown key `nmae` in [node]; did you mean \"name\"? (valid: name, data"),
    ("[node.tls]|ca = 'x'", "2:1", "unknown key `ca` in [node.tls]"),
    ("[databases.a]|plaintext = true|# é|'pättern' = 1", "4:1", "did you mean \"pattern\"?"),
    ("[databases.a.policy]|filter = 'x'", "2:1", "unknown key `filter` in [databases.a.policy]"),
    ("[databases.a.access]|write = 'x'", "2:1", "unknown key `write` in [databases.a.access]"),
    ("[[databases.a.links]]|serve = 'none'", "2:1", "unknown key `serve` in [[databases.a.links]]"),
    ("[auth]|issuers = [{ nam = 'x' }]", "2:14", "did you mean \"name\"?"),
    // wrong types and values
    ("[node]|name = 5", "2:8", "`name` is a string, not an integer"),
    ("node = 1", "1:8", "`node` is a section, not an integer"),
    ("databases = []", "1:13", "`databases` is a section, not a list"),
    ("[auth]|anonymous = 'yes'", "2:13", "`anonymous` is true or false, not a string"),
    ("[databases]|a = 1", "2:5", "`a` is a section, not an integer"),
    ("[databases.a.relations.f]|to = 'b'", "2:1", "no [databases.b]"),
    ("[databases.a.relations.f]|on_delete = 'cascade'", "1:24", "`to`"),
    ("[databases.a.relations.f]|to = 'a'|on_delete = 'x'", "3:13", "restrict, cascade, set-null"),
    ("[databases.a]|indexes = 'x'", "2:11", "`indexes` is a list of strings, not a string"),
    ("[databases.a]|indexes = ['x', 1]", "2:17", "`indexes` is a string, not an integer"),
    ("[databases.a]|indexes = ['x', 'x']", "2:17", "\"x\" is there twice"),
    ("[databases.a]|links = [1]", "2:10", "`links` is a list of sections, not an integer"),
    (
        "[databases.a]|pattern = 'star-ship'",
        "2:11",
        "unknown value \"star-ship\" (valid: hub-and-spoke, mesh,",
    ),
    ("[databases.a]|pattern = 'Mesh'", "2:11", "did you mean \"mesh\"?"),
    ("[databases.a]|pattern = 'hybrid'", "2:11", "unknown value \"hybrid\""),
    (
        "[databases.a]|mode = 'readonly'",
        "2:8",
        "did you mean \"read-only\"? (valid: bidirectional, read-only,",
    ),
    ("[databases.a]|serve = 'all'", "2:9", "(valid: none, bidirectional, broadcast, aggregate)"),
    ("[databases.a]|durability = 'none'", "2:14", "(valid: full, normal)"),
    ("[databases.a]|tombstone_lease = '0d'", "2:19", "more than zero"),
    ("[databases.a]|tombstone_lease = '90'", "2:19", "a whole number and a unit"),
    ("[databases.a.policy]|compression = 'yes'", "2:15", "(valid: auto, always, never)"),
    (
        "[databases.a]|pattern='mesh'|discover=true|[databases.a.policy]|on_left_filter = 'forget'",
        "5:18",
        "(valid: remove, keep, shred)",
    ),
    ("[databases.a.policy]|encryption = 'none'", "2:14", "(valid: smart-proxy, e2e-only)"),
    ("[databases.a.policy]|encryption = { seals = [] }", "2:16", "did you mean \"seal\"?"),
    ("[databases.a]|pattern = 'star'|role = 'master'|parent = 'ws://a'", "3:8", "(valid: child, parent)"),
    ("[node]|listen = '127.0.0.1'", "2:10", "expected \"host:port\""),
    ("[node]|clock_drift_limit = '5'", "2:21", "like \"5m\""),
    ("[node]|clock_drift_limit = '0s'", "2:21", "more than zero"),
    ("[node]|name = ''", "2:8", "can't be empty"),
    ("[node]|name = \"a\\nb\"", "2:8", "control characters"),
    ("[databases.a]|pattern = 'hub-and-spoke'|hub = 'http://h'", "3:7", "\"ws://host:port\""),
    ("[databases.a]|pattern = 'mesh'|peers = ['ws://p', 'ws://p/sync/x']", "3:20", "`remote`"),
    ("[databases.a]|pattern = 'chain'|upstream = 'ws://u'|remote = 'a/b'", "4:10", "not '/'"),
    ("[databases.'a b']", "1:12", "not ' '"),
    ("[databases.'..']", "1:12", "begin with a dot"),
    // variables
    ("[node]|name = 'x-${NOT_SET}'", "2:11", "the environment variable NOT_SET is not set"),
    ("[node]|name = '${NOT SET}'", "2:9", "a variable like ${NAME}"),
    ("[node]|name = '${EMPTY}'", "2:8", "can't be empty"),
    ("[databases.a]|indexes = ['x', '${NOPE}']", "2:18", "NOPE"),
    // patterns and their keys
    (
        "[databases.a]|pattern = 'hub-and-spoke'",
        "2:1",
        "pattern \"hub-and-spoke\" needs `hub` (the hub itself",
    ),
    ("[databases.a]|hub = 'ws://h'", "2:1", "add pattern = \"hub-and-spoke\""),
    (
        "[databases.a]|pattern = 'local-only'|hub = 'ws://h'",
        "3:1",
        "`hub` belongs to pattern \"hub-and-spoke\", not to \"local-only\"",
    ),
    ("[databases.a]|pattern = 'mesh'|hub = 'ws://h'", "3:1", "not to \"mesh\""),
    ("[databases.a]|pattern = 'mesh'", "2:1", "this mesh has no `peers`"),
    (
        "[databases.a]|pattern = 'mesh'|peers = ['ws://p', 'ws://p:80/']",
        "2:1",
        "the link peer:ws://p is there twice",
    ),
    ("[databases.a]|pattern = 'broadcast'", "2:1", "serve = \"broadcast\""),
    ("[databases.a]|pattern = 'star'", "2:1", "needs `parent`"),
    ("[databases.a]|pattern = 'star'|role = 'child'", "2:1", "needs `parent`"),
    (
        "[databases.a]|pattern = 'star'|role = 'parent'|parent = 'ws://p'",
        "4:1",
        "role \"parent\" has no `parent`",
    ),
    ("[databases.a]|pattern = 'star'|role = 'parent'", "3:1", "must be served"),
    (
        "[node]|listen='127.0.0.1:1'|[databases.a]|pattern='star'|role='parent'|serve='bidirectional'|mode='read-only'",
        "7:1",
        "a star's parent opens none",
    ),
    ("[databases.a]|pattern = 'hierarchical'", "2:1", "needs `master`, `edges` or both"),
    ("[databases.a]|mode = 'bidirectional'", "2:1", "`mode` is about links"),
    ("[databases.a]|pattern = 'local-only'|mode = 'read-only'", "3:1", "`mode` is about links"),
    ("[databases.a]|remote = 'b'", "2:1", "`remote` is about links"),
    ("[databases.a]|remote_key = 'b'", "2:1", "`remote_key` is about links"),
    ("[databases.a]|[databases.a.policy]|teams = ['x']", "2:14", "[databases.a.access]"),
    (
        "[databases.a]|pattern = 'broadcast'|source = 'ws://s'|mode = 'write-only'",
        "4:1",
        "has mode \"read-only\", not \"write-only\"",
    ),
    (
        "[databases.a]|pattern = 'aggregation'|sink = 'ws://s'|mode = 'bidirectional'",
        "4:1",
        "has mode \"write-only\"",
    ),
    ("[databases.a]|pattern = 'mesh'|discover = true|remote_key = 'k'", "4:1", "fits one node"),
    // links
    ("[[databases.a.links]]|peers = ['ws://p']", "1:1", "[[databases.a.links]] needs `pattern`"),
    ("[[databases.a.links]]|pattern = 'local-only'", "2:1", "this pattern opens none"),
    (
        "[databases.a]|pattern='hub-and-spoke'|hub='ws://h'|[[databases.a.links]]|pattern='mesh'|peers=['ws://h']",
        "4:15",
        "there twice",
    ),
    (
        "[databases.a]|pattern='hub-and-spoke'|hub='ws://h'|mode='read-only'|[[databases.a.links]]|pattern='aggregation'|sink='ws://s'",
        "6:1",
        "has mode \"write-only\", not \"read-only\"",
    ),
    // policy
    (
        "[databases.a]|pattern='mesh'|discover=true|[databases.a.policy]|routing_fields = ['t']",
        "5:1",
        "are for encryption = \"e2e-only\"",
    ),
    (
        "[databases.a]|pattern='mesh'|discover=true|[databases.a.policy]|encryption = { seal = [] }",
        "5:1",
        "`seal` names no field",
    ),
    (
        "[databases.a]|pattern='mesh'|discover=true|[databases.a.policy]|release_after_ack = true",
        "5:1",
        "is for mode \"write-only\"",
    ),
    (
        "[databases.a]|pattern='mesh'|discover=true|[databases.a.policy]|priority = 128",
        "5:12",
        "from -128 to 127",
    ),
    (
        "[databases.a]|pattern='mesh'|discover=true|[databases.a.policy]|priority = 'high'",
        "5:12",
        "`priority` is a whole number, not a string",
    ),
    ("[databases.a.policy]|where = 'é == BAD'", "2:15", "`where`: a bad word"),
    ("[databases.a.policy]|where = \"\\\"x\\\" == BAD\"", "2:9", "`where`: column 8: a bad word"),
    ("[databases.a.policy]|where = '''|a == BAD'''", "2:9", "`where`: column 6: a bad word"),
    ("[databases.a.access]|read = 'BAD'", "2:9", "`read`: a bad word"),
    ("[databases.a.access]|public = true|read = 'true'", "3:1", "the rule `read` would do nothing"),
    // what is reached by others
    ("[node]|listen = '0.0.0.0:1'|[auth]|anonymous = true", "4:1", "insecure = true"),
    ("[node]|listen = 'example.com:1'|[auth]|anonymous = true", "4:1", "insecure = true"),
    ("[node]|admin = '[::]:1'", "2:1", "`admin_token_file`"),
    ("[databases.a]|serve = 'broadcast'", "2:1", "`serve` needs `listen`"),
    ("[auth]|issuers = [{ name = 'x' }]", "2:12", "needs `key_file` or `jwks_file`"),
    ("[auth]|issuers = [{ name = 'x', key_file = 'a', jwks_file = 'b' }]", "2:42", "exclude each other"),
    ("[auth]|issuers = [{ key_file = 'a' }]", "2:12", "[[auth.issuers]] needs `name`"),
    ("[node]|tls = { cert = 'x' }", "2:1", "[node.tls] needs `key`"),
    // files and passwords
    (
        "[databases.a]|password_env = 'A'|plaintext = true",
        "3:1",
        "`plaintext` and `password_env` exclude each other",
    ),
    (
        "[databases.a]|password_file = 'A'|password_env = 'A'",
        "2:1",
        "`password_file` and `password_env` exclude",
    ),
    ("[databases.a]|[databases.b]|file = './A.blazedb'", "3:1", "databases a and b have the same file"),
    ("[databases.a]|[databases.A]", "1:12", "databases A and a have the same file"),
    ("[databases.a]|file = '../a'", "2:1", "leaves the node's data directory"),
    ("[databases.a]|file = '/a'", "2:1", "leaves the node's data directory"),
    ("[databases.a]|file = 'x/../../a'", "2:1", "leaves the node's data directory"),
    ("[databases.a]|file = 'C:\\a'", "2:1", "leaves the node's data directory"),
    ("[databases.a]|file = '.'", "2:1", "leaves the node's data directory"),
];

#[test]
fn bad_files_are_refused_with_the_place_and_the_reason() {
    let mut wrong = Vec::new();
    for (text, place, part) in BAD {
        let text = text.replace('|', "\n");
        match read_with(&text, PasswordRule::Optional) {
            Ok(_) => wrong.push(format!("accepted:\n{text}")),
            Err(error) => {
                let message = error.to_string();
                if !message.starts_with(&format!("{place}: "))
                    || !message.contains(part)
                    || message.contains('\n')
                {
                    wrong.push(format!("expected {place} ... {part}\n     got {message}\n{text}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n---\n"));
}

#[test]
fn insecure_lets_anonymous_through_where_it_is_said() {
    let text = "[node]\nlisten = '0.0.0.0:1'\nadmin = '0.0.0.0:2'\nadmin_token_file = 't'\n\
                [auth]\nanonymous = true\ninsecure = true";
    assert!(read(text).auth.anonymous);
    assert!(read("[node]\nlisten = '[::1]:1'\n[auth]\nanonymous = true").auth.anonymous);
}

#[test]
fn limits_hold() {
    let long = format!("# {}", "x".repeat(crate::limits::MAX_TOPOLOGY_BYTES));
    assert_eq!(read_with(&long, PasswordRule::Optional).unwrap_err().kind, SpecErrorKind::FileTooLong);
    let filter =
        format!("[databases.a.access]\nread = '{}'", "x".repeat(crate::limits::MAX_FILTER_BYTES + 1));
    assert!(read_with(&filter, PasswordRule::Optional).is_err());
    let peers = vec!["'ws://p'"; crate::limits::MAX_LINKS + 1].join(",");
    let text = format!("[databases.a]\npattern = 'mesh'\npeers = [{peers}]");
    let error = read_with(&text, PasswordRule::Optional).unwrap_err();
    assert_eq!(error.kind, SpecErrorKind::TooManyLinks("peers".into()));
    let deep = format!("[databases.a]\nindexes = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(read_with(&deep, PasswordRule::Optional).unwrap_err().kind, SpecErrorKind::Syntax(_)));
}

/// Files that are nearly right: lines of the example and of the bad files, shuffled.
fn shuffled_lines() -> impl Strategy<Value = String> {
    let mut lines: Vec<String> = EXAMPLE.lines().map(str::to_owned).collect();
    lines.extend(BAD.iter().flat_map(|(text, ..)| text.split('|').map(str::to_owned)));
    prop::collection::vec(prop::sample::select(lines), 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn no_text_panics_and_every_error_has_a_place(text in prop_oneof![".{0,200}", shuffled_lines()]) {
        match read_with(&text, PasswordRule::Optional) {
            Ok(spec) => for database in spec.databases.values() {
                prop_assert!(expand(database).is_ok());
            },
            Err(error) => {
                prop_assert!(error.column >= 1 && error.line >= 1);
                prop_assert!(error.line <= text.split('\n').count());
            }
        }
    }

    #[test]
    fn no_cut_or_changed_byte_panics(at in 0..EXAMPLE.len(), with in any::<char>(), cut in any::<bool>()) {
        let at = (0..=at).rev().find(|at| EXAMPLE.is_char_boundary(*at)).unwrap();
        let mut text = EXAMPLE.to_owned();
        if cut { text.truncate(at) } else { text.insert(at, with) }
        let _ = read_with(&text, PasswordRule::Required);
    }
}
