//! The commented topology files that `blazedb init` writes.
//!
//! Invariant: what is written here parses (for a name without control characters), and opens nothing beyond this
//! machine until somebody edits it.

use super::address::Endpoint;

const HEAD: &str = "\
# Topology file of BlazeDB: what this node is, and what each of its databases wants.
# Unknown keys and values are errors. ${NAME} in a string is replaced from the environment.
";

const DATABASE: &str = r#"
[databases.notes]
# file       = "notes.blazedb"    # the default: NAME.blazedb, in the data directory
password_env = "BLAZEDB_PASSWORD" # the variable with the password; or password_file; or plaintext = true
# durability = "full"             # or "normal": faster, but the last writes may be lost with the power
# tombstone_lease = "90d"         # so long a device may be away and still be told of deletions one by one
# indexes    = ["priority"]       # fields that are often filtered or sorted by
# search     = ["title"]          # fields for full-text search
"#;

const POLICY: &str = r#"
# [databases.notes.policy]            # what travels; all of it by default
# where          = 'status != "archived"'
# exclude_fields = ["attachment"]
# encryption     = "e2e-only"         # the hub can't read it; routing_fields stay readable
# routing_fields = ["teamId"]
# priority       = 5                  # goes first where several links have something to do; 0 by default
"#;

/// A node that keeps its databases to itself.
#[must_use]
pub fn local(name: &str) -> String {
    let node = node(name);
    format!(
        "{HEAD}{node}{DATABASE}# pattern    = \"hub-and-spoke\"    # local-only by default: nothing leaves this \
         process\n# hub        = \"ws://127.0.0.1:7500\"\n"
    )
}

/// A node that others connect to, on this machine only until `listen` and `[auth]` are edited.
#[must_use]
pub fn hub(name: &str) -> String {
    let node = node(name);
    format!(
        r#"{HEAD}{node}listen = "127.0.0.1:7500"  # where devices connect; 0.0.0.0:7500 for other machines
admin  = "127.0.0.1:7400"  # HTTP API and visualizer
# admin_token_file = "admin.token"             # needed when `admin` is not a loopback address
# tls  = {{ cert = "cert.pem", key = "key.pem" }}

[auth]
anonymous = true           # everyone on this machine; with false, only who has a token
issuers   = [{{ name = "self", key_file = "data/issuer.pub" }}]  # this node's own: `blazedb token issue`, `invite`
# revoked_file = "revoked"  # `blazedb token revoke` adds to it; the default is in the data directory
{DATABASE}serve        = "bidirectional"    # or "broadcast" (clients only read), "aggregate" (clients only write)

[databases.notes.access]              # who may do what; a missing rule denies
public = true                         # everyone who is let in may do everything. Instead, rules such as:
# connect = 'true'
# read    = 'record.teamId in user.teams'
# insert  = 'record.teamId in user.teams'
# update  = 'record.teamId in user.teams && old.teamId == record.teamId'
# delete  = '"admin" in user.roles'
"#
    )
}

/// A node that syncs with a hub.
#[must_use]
pub fn device(name: &str, hub: &Endpoint) -> String {
    let node = node(name);
    let hub = quoted(&hub.to_string());
    format!(
        r#"{HEAD}{node}# admin    = "127.0.0.1:7401"  # HTTP API and visualizer
# token_file = "device.jwt"    # who this node is to the hub; `blazedb token accept CODE` fetches it
{DATABASE}pattern      = "hub-and-spoke"    # mesh, star, hierarchical, chain, broadcast, aggregation, local-only
hub          = {hub}
mode         = "bidirectional"    # read-only, write-only, local-only
# remote     = "notes"            # the database's name on the hub
# remote_key = "..."              # the hub's fingerprint; otherwise the first one seen is kept
{POLICY}"#
    )
}

fn node(name: &str) -> String {
    format!(
        "\n[node]\nname   = {}\ndata   = \"data\"            # directory of the files, relative to this file\n",
        quoted(name)
    )
}

/// A basic string of TOML in which no variable is replaced.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.replace("${", "$${").chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{
        ParseContext, PasswordRule, Pattern, ServeMode, SpecErrorKind, TopologySpec, parse,
    };
    use proptest::prelude::*;

    fn read(text: &str) -> TopologySpec {
        let context =
            ParseContext { env: &|_| None, check_filter: &|_, _| Ok(()), passwords: PasswordRule::Required };
        parse(text, &context).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// The template with every commented setting switched on.
    fn uncommented(text: &str, keys: &[&str]) -> String {
        let switch = |line: &str| match line.strip_prefix("# ") {
            Some(rest) if keys.iter().any(|key| rest.starts_with(key)) => rest.to_owned(),
            _ => line.to_owned(),
        };
        text.lines().map(switch).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn templates_parse() {
        let spec = read(&local("laptop"));
        assert_eq!(spec.node.name, "laptop");
        assert_eq!(spec.databases["notes"].sync.pattern, Pattern::LocalOnly);

        let spec = read(&hub("hub"));
        assert_eq!(spec.databases["notes"].serve, ServeMode::Bidirectional);
        assert!(spec.node.listen.unwrap().is_loopback());
        assert_eq!(spec.auth.issuers[0].name, "self");

        let url: Endpoint = "wss://hub.example.com".parse().unwrap();
        let spec = read(&device("phone", &url));
        assert_eq!(spec.databases["notes"].sync.pattern, Pattern::HubAndSpoke { hub: url });
    }

    #[test]
    fn what_the_templates_suggest_in_comments_parses_too() {
        let file = ["file", "durability", "tombstone_lease", "indexes", "search"];
        read(&uncommented(&local("a"), &[&file[..], &["pattern", "hub"]].concat()));
        read(&uncommented(&hub("a"), &[&file[..], &["admin_token_file", "tls", "revoked_file"]].concat()));
        let rules = uncommented(&hub("a"), &["connect", "read", "insert", "update", "delete"]);
        let rules = rules.replace("public = true", "");
        assert!(read(&rules).databases["notes"].access.delete.is_some());
        let more =
            ["admin", "token_file", "remote", "[", "where", "exclude_fields", "encryption", "routing_fields"];
        let spec = read(&uncommented(&device("a", &"ws://h".parse().unwrap()), &[&file[..], &more].concat()));
        assert!(spec.databases["notes"].sync.policy.filter.is_some());
    }

    proptest! {
        #[test]
        fn any_name_is_kept_or_refused_for_its_control_characters(name in ".{1,30}|[\\\\\"${}a]{1,12}|\\PC{1,20}") {
            let context = ParseContext {
                env: &|_| Some("replaced".to_owned()),
                check_filter: &|_, _| Ok(()),
                passwords: PasswordRule::Required,
            };
            match parse(&hub(&name), &context) {
                Ok(spec) => prop_assert_eq!(spec.node.name, name),
                Err(error) => {
                    let is_value_error = matches!(error.kind, SpecErrorKind::Value { .. });
                    prop_assert!(is_value_error && name.chars().any(char::is_control), "{}", error);
                }
            }
        }
    }
}
