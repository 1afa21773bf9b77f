//! Reading `[databases.NAME]`: the file, its password, its indexes, how it is served.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::error::{SpecError, SpecErrorKind, ValueError};
use super::expand::expand;
use super::name::DatabaseName;
use super::pattern::{Pattern, StarRole};
use super::policy::FilterText;
use super::reader::Section;
use super::serve::ServeMode;
use super::spec::{AccessSpec, DatabaseSpec, Durability, OnDelete, PasswordSource, RelationSpec};
use super::toml_file::{FilterUse, PasswordRule, read_length};
use super::toml_sync::{read_links, read_sync};
use crate::limits::TOMBSTONE_LEASE_MS;

const DATABASE_KEYS: &[&str] = &[
    "file",
    "password_env",
    "password_file",
    "plaintext",
    "durability",
    "tombstone_lease",
    "indexes",
    "search",
    "relations",
    "pattern",
    "hub",
    "parent",
    "role",
    "master",
    "edges",
    "upstream",
    "source",
    "sink",
    "peers",
    "discover",
    "fallback_to_local",
    "remote",
    "remote_key",
    "mode",
    "policy",
    "links",
    "serve",
    "resolver",
    "access",
];
const RELATION_KEYS: &[&str] = &["to", "on_delete"];
const ACCESS_KEYS: &[&str] = &["public", "connect", "read", "insert", "update", "delete", "relay", "keys"];

pub(super) fn read_database(name: &DatabaseName, section: &Section<'_>) -> Result<DatabaseSpec, SpecError> {
    section.only(DATABASE_KEYS)?;
    let sync = read_sync(name, section)?;
    let links = read_links(name, section, &sync)?;
    if section.has("policy") && links.is_empty() && !sync.pattern.has_links() {
        return Err(section.error("policy", SpecErrorKind::PolicyWithoutLink(name.to_string())));
    }
    let spec = DatabaseSpec {
        file: read_file(name, section)?,
        password: read_password(name, section)?,
        durability: section.parsed("durability")?.unwrap_or(Durability::Full),
        tombstone_lease: read_length(section, "tombstone_lease")?
            .unwrap_or(Duration::from_millis(TOMBSTONE_LEASE_MS)),
        indexes: section.fields("indexes")?,
        search: section.fields("search")?,
        relations: section.section("relations")?.map(|s| read_relations(&s)).transpose()?.unwrap_or_default(),
        sync,
        links,
        serve: section.parsed("serve")?.unwrap_or(ServeMode::None),
        resolver: section.parsed("resolver")?,
        access: section.section("access")?.map(|s| read_access(&s)).transpose()?.unwrap_or_default(),
    };
    if spec.sync.pattern == (Pattern::Star { role: StarRole::Parent }) && spec.serve == ServeMode::None {
        return Err(section.error("role", SpecErrorKind::ParentNotServed));
    }
    if spec.resolver.is_some() && spec.serve == ServeMode::None {
        return Err(section.error("resolver", SpecErrorKind::ResolverNotServed));
    }
    if spec.sync.pattern.is_lonely_mesh() && spec.serve == ServeMode::None {
        return Err(section.error("pattern", SpecErrorKind::MeshAlone));
    }
    let key = if section.has("links") { "links" } else { "pattern" };
    expand(&spec).map_err(|contradiction| section.error(key, contradiction))?;
    Ok(spec)
}

fn read_relations(section: &Section<'_>) -> Result<BTreeMap<String, RelationSpec>, SpecError> {
    let relation = |(field, section): (String, Section<'_>)| {
        section.only(RELATION_KEYS)?;
        let to = section.parsed("to")?.ok_or_else(|| section.missing("to"))?;
        let on_delete = section.parsed("on_delete")?.unwrap_or(OnDelete::Restrict);
        Ok((field, RelationSpec { to, on_delete }))
    };
    section.children()?.into_iter().map(relation).collect()
}

fn read_file(name: &DatabaseName, section: &Section<'_>) -> Result<PathBuf, SpecError> {
    let Some(text) = section.text("file")? else { return Ok(DatabaseSpec::local(name).file) };
    let inside = |component| matches!(component, Component::Normal(_) | Component::CurDir);
    let path = Path::new(&text);
    // A backslash and a drive's colon lead out on one system and are part of a name on another.
    if text.contains(['\\', ':']) || !path.components().all(inside) || path.file_name().is_none() {
        return Err(section.value_error("file", section.at("file"), ValueError::Escapes(text)));
    }
    Ok(path.to_owned())
}

fn read_password(name: &DatabaseName, section: &Section<'_>) -> Result<PasswordSource, SpecError> {
    let env = section.text("password_env")?.map(|env| ("password_env", PasswordSource::Env(env)));
    let file = section.path("password_file")?.map(|path| ("password_file", PasswordSource::File(path)));
    let said = section.bool("plaintext")?.unwrap_or(false);
    let plain = said.then_some(("plaintext", PasswordSource::Plaintext));
    let mut given = [env, file, plain].into_iter().flatten();
    let Some((first, source)) = given.next() else {
        return match section.source.context.passwords {
            PasswordRule::Optional => Ok(PasswordSource::None),
            PasswordRule::Required => {
                Err(section.source.error(section.start, SpecErrorKind::NoPassword(name.to_string())))
            }
        };
    };
    match given.next() {
        Some((second, _)) => Err(section.error(second, SpecErrorKind::Exclusive { first, second })),
        None => Ok(source),
    }
}

fn read_access(section: &Section<'_>) -> Result<AccessSpec, SpecError> {
    section.only(ACCESS_KEYS)?;
    let public = section.bool("public")?.unwrap_or(false);
    let rule = |key: &'static str, used| -> Result<Option<FilterText>, SpecError> {
        if public && section.has(key) {
            return Err(section.error(key, SpecErrorKind::RuleBesidePublic(key)));
        }
        section.filter(key, used)
    };
    Ok(AccessSpec {
        public,
        connect: rule("connect", FilterUse::Connect)?,
        read: rule("read", FilterUse::Read)?,
        insert: rule("insert", FilterUse::Insert)?,
        update: rule("update", FilterUse::Update)?,
        delete: rule("delete", FilterUse::Delete)?,
        relay: rule("relay", FilterUse::Relay)?,
        keys: rule("keys", FilterUse::Keys)?,
    })
}
