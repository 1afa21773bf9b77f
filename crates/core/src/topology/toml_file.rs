//! Reading a whole topology file, and what must hold between its parts.
//!
//! Specification: `docs/spec/topology-file.md`.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::de::DeTable;

use super::address::ListenAddress;
use super::error::{FilterTextError, SpecError, SpecErrorKind, ValueError};
use super::name::DatabaseName;
use super::reader::{Section, Source};
use super::serve::ServeMode;
use super::spec::{DatabaseSpec, NodeSpec, TlsSpec, TopologySpec};
use super::toml_auth::read_auth;
use super::toml_database::read_database;
use super::units::parse_duration;
use crate::limits::{MAX_DATABASES, MAX_TOPOLOGY_BYTES};

const ROOT_KEYS: &[&str] = &["node", "auth", "databases"];
const NODE_KEYS: &[&str] =
    &["name", "data", "listen", "admin", "admin_token_file", "tls", "token_file", "clock_drift_limit"];
const TLS_KEYS: &[&str] = &["cert", "key"];

/// What a filter is for: decides which names it may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FilterUse {
    /// Which records a link carries: over the record.
    Policy,
    /// Who may connect: over `user`.
    Connect,
    /// Which records a user may read: over `record` and `user`.
    Read,
    /// Which records a user may insert: over `record` and `user`.
    Insert,
    /// Which updates a user may make: over `old`, `record` and `user`.
    Update,
    /// Which records a user may delete: over `record` and `user`.
    Delete,
    /// Who may bring writes of other nodes: over `user`.
    Relay,
    /// Who may begin the keyring: over `user`.
    Keys,
}

/// Whether a database may leave open where its password comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PasswordRule {
    /// It may not: for whoever opens databases.
    Required,
    /// It may: for whoever only looks at the topology, or simulates it.
    Optional,
}

/// What [`parse`] needs from its surroundings.
pub struct ParseContext<'a> {
    /// The value of an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Whether the filter language accepts a text.
    pub check_filter: &'a dyn Fn(&str, FilterUse) -> Result<(), FilterTextError>,
    /// Whether every database must say where its password comes from.
    pub passwords: PasswordRule,
}

impl std::fmt::Debug for ParseContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParseContext").field("passwords", &self.passwords).finish_non_exhaustive()
    }
}

/// Reads a topology file.
///
/// # Errors
/// [`SpecError`], with line and column, for the first thing that is wrong.
pub fn parse(text: &str, context: &ParseContext<'_>) -> Result<TopologySpec, SpecError> {
    let source = Source { text, context };
    if text.len() > MAX_TOPOLOGY_BYTES {
        return Err(source.error(0, SpecErrorKind::FileTooLong));
    }
    let table = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        source.error(offset, SpecErrorKind::Syntax(error.message().replace('\n', ", ")))
    })?;
    let root = Section::root(&source, table.get_ref());
    root.only(ROOT_KEYS)?;
    let node = match root.section("node")? {
        Some(section) => read_node(&section)?,
        None => NodeSpec::default(),
    };
    let auth = read_auth(root.section("auth")?.as_ref(), node.listen.as_ref())?;
    let databases = match root.section("databases")? {
        Some(section) => read_databases(&section, node.listen.is_some())?,
        None => BTreeMap::new(),
    };
    Ok(TopologySpec { node, auth, databases })
}

fn read_node(section: &Section<'_>) -> Result<NodeSpec, SpecError> {
    section.only(NODE_KEYS)?;
    let defaults = NodeSpec::default();
    let admin: Option<ListenAddress> = section.parsed("admin")?;
    let admin_token_file = section.path("admin_token_file")?;
    if let Some(admin) = admin.as_ref().filter(|admin| !admin.is_loopback() && admin_token_file.is_none()) {
        return Err(section.error("admin", SpecErrorKind::AdminExposed(admin.to_string())));
    }
    Ok(NodeSpec {
        name: section.text("name")?.unwrap_or(defaults.name),
        data: section.path("data")?.unwrap_or(defaults.data),
        listen: section.parsed("listen")?,
        admin,
        admin_token_file,
        tls: section.section("tls")?.map(|section| read_tls(&section)).transpose()?,
        token_file: section.path("token_file")?,
        clock_drift_limit: read_length(section, "clock_drift_limit")?.unwrap_or(defaults.clock_drift_limit),
    })
}

fn read_tls(section: &Section<'_>) -> Result<TlsSpec, SpecError> {
    section.only(TLS_KEYS)?;
    let path = |key| section.path(key)?.ok_or_else(|| section.missing(key));
    Ok(TlsSpec { cert: path("cert")?, key: path("key")? })
}

/// A length of time that is not zero.
pub(super) fn read_length(section: &Section<'_>, key: &str) -> Result<Option<Duration>, SpecError> {
    let Some(word) = section.word(key)? else { return Ok(None) };
    match parse_duration(&word.text) {
        Ok(limit) if limit.is_zero() => Err(section.value_error(key, word.start, ValueError::Zero)),
        Ok(limit) => Ok(Some(limit)),
        Err(error) => Err(section.value_error(key, word.start, error)),
    }
}

fn read_databases(
    section: &Section<'_>,
    listens: bool,
) -> Result<BTreeMap<DatabaseName, DatabaseSpec>, SpecError> {
    let children = section.children()?;
    if children.len() > MAX_DATABASES {
        return Err(section.source.error(section.start, SpecErrorKind::TooManyDatabases));
    }
    let mut databases = BTreeMap::new();
    let mut files: BTreeMap<String, DatabaseName> = BTreeMap::new();
    for (name, child) in children {
        let name: DatabaseName =
            name.parse().map_err(|error| section.value_error(&name, child.start, ValueError::from(error)))?;
        let spec = read_database(&name, &child)?;
        if spec.serve != ServeMode::None && !listens {
            return Err(child.error("serve", SpecErrorKind::ServeWithoutListen));
        }
        if let Some(first) = files.insert(same_file_key(&spec), name.clone()) {
            let file = spec.file.display().to_string();
            let kind = SpecErrorKind::SameFile { first: first.to_string(), second: name.to_string(), file };
            return Err(child.error("file", kind));
        }
        databases.insert(name, spec);
    }
    check_relations(section, &databases)?;
    Ok(databases)
}

/// A relation leads to a database of the same file.
fn check_relations(
    section: &Section<'_>,
    databases: &BTreeMap<DatabaseName, DatabaseSpec>,
) -> Result<(), SpecError> {
    for (_, child) in section.children()? {
        let relations = child.section("relations")?.map(|section| section.children()).transpose()?;
        for (_, relation) in relations.unwrap_or_default() {
            let to: Option<DatabaseName> = relation.parsed("to")?;
            if let Some(to) = to.filter(|to| !databases.contains_key(to)) {
                return Err(relation.error("to", SpecErrorKind::RelationToNowhere(to.to_string())));
            }
        }
    }
    Ok(())
}

/// Equal for paths that are one file on a system that ignores case.
fn same_file_key(spec: &DatabaseSpec) -> String {
    let normal: std::path::PathBuf = spec
        .file
        .components()
        .filter(|component| matches!(component, std::path::Component::Normal(_)))
        .collect();
    normal.to_string_lossy().to_lowercase()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
