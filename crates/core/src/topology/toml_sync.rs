//! Reading what a database's links are: pattern, addresses, mode and policy, of the database itself and of its
//! `[[links]]`.

use super::error::{Contradiction, SpecError, SpecErrorKind};
use super::name::DatabaseName;
use super::pattern::{Pattern, PatternKind, StarRole, SyncMode};
use super::policy::{Compression, EncryptionSpec, OnRemoval, PolicySpec};
use super::reader::Section;
use super::spec::SyncSpec;
use super::toml_file::FilterUse;
use crate::turns::DEFAULT_PRIORITY;

const LINK_KEYS: &[&str] = &[
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
];
const POLICY_KEYS: &[&str] = &[
    "teams",
    "where",
    "exclude_fields",
    "encryption",
    "routing_fields",
    "compression",
    "respect_rls",
    "on_left_filter",
    "on_access_revoked",
    "priority",
    "release_after_ack",
];
const ENCRYPTION_KEYS: &[&str] = &["seal"];

/// Which pattern has which keys.
const OWNERS: &[(&str, PatternKind)] = &[
    ("hub", PatternKind::HubAndSpoke),
    ("parent", PatternKind::Star),
    ("role", PatternKind::Star),
    ("master", PatternKind::Hierarchical),
    ("edges", PatternKind::Hierarchical),
    ("upstream", PatternKind::Chain),
    ("source", PatternKind::Broadcast),
    ("sink", PatternKind::Aggregation),
    ("peers", PatternKind::Mesh),
    ("discover", PatternKind::Mesh),
    ("fallback_to_local", PatternKind::Mesh),
];

/// Reads the database's own pattern.
pub(super) fn read_sync(name: &DatabaseName, section: &Section<'_>) -> Result<SyncSpec, SpecError> {
    let pattern = read_pattern(section)?;
    let given_mode: Option<SyncMode> = section.parsed("mode")?;
    if !pattern.has_links() {
        let says_none = given_mode == Some(SyncMode::LocalOnly) && pattern == Pattern::LocalOnly;
        let idle = ["mode", "remote", "remote_key"].into_iter().filter(|key| section.has(key));
        if let Some(key) = idle.min_by_key(|key| section.at(key)).filter(|key| *key != "mode" || !says_none) {
            return Err(section.error(key, SpecErrorKind::KeyWithoutLink { key, pattern: pattern.kind() }));
        }
    }
    let sync = SyncSpec {
        mode: given_mode.unwrap_or(pattern.kind().default_mode()),
        pattern,
        remote: section.parsed("remote")?.unwrap_or_else(|| name.clone()),
        remote_key: section.text("remote_key")?,
        policy: read_policy_of(section)?.unwrap_or_default(),
    };
    check(section, &sync)?;
    Ok(sync)
}

/// Reads `[[links]]`. A link without a mode or a policy of its own has the database's, where that was given: a link
/// that was added must not open what the database closed.
pub(super) fn read_links(
    name: &DatabaseName,
    database: &Section<'_>,
    main: &SyncSpec,
) -> Result<Vec<SyncSpec>, SpecError> {
    let mut links = Vec::new();
    for section in database.sections("links")? {
        section.only(LINK_KEYS)?;
        if !section.has("pattern") {
            return Err(section.missing("pattern"));
        }
        let pattern = read_pattern(&section)?;
        if !pattern.has_links() {
            return Err(section.error("pattern", Contradiction::LinkToNowhere));
        }
        let inherited = database.has("mode").then_some(main.mode);
        let mode = section.parsed("mode")?.or(inherited).unwrap_or(pattern.kind().default_mode());
        let sync = SyncSpec {
            mode,
            pattern,
            remote: section.parsed("remote")?.unwrap_or_else(|| name.clone()),
            remote_key: section.text("remote_key")?,
            policy: read_policy_of(&section)?.unwrap_or_else(|| main.policy.clone()),
        };
        check(&section, &sync)?;
        links.push(sync);
    }
    Ok(links)
}

/// Reports a contradiction at the key that makes it.
fn check(section: &Section<'_>, sync: &SyncSpec) -> Result<(), SpecError> {
    sync.check().map_err(|contradiction| {
        let policy = section.section("policy").ok().flatten();
        match (&contradiction, policy) {
            (Contradiction::ReleaseOfReader { .. }, Some(policy)) => {
                policy.error("release_after_ack", contradiction)
            }
            (Contradiction::NothingSealed, Some(policy)) => policy.error("encryption", contradiction),
            (Contradiction::Mode { .. }, _) if section.has("mode") => section.error("mode", contradiction),
            (Contradiction::OneKeyForMany { .. }, _) => section.error("remote_key", contradiction),
            _ => section.error("pattern", contradiction),
        }
    })
}

fn read_pattern(section: &Section<'_>) -> Result<Pattern, SpecError> {
    let chosen: Option<PatternKind> = section.parsed("pattern")?;
    let strangers = OWNERS.iter().filter(|(key, owner)| section.has(key) && Some(*owner) != chosen);
    if let Some((key, owner)) = strangers.min_by_key(|(key, _)| section.at(key)) {
        let kind = SpecErrorKind::KeyOfOtherPattern { key, owner: *owner, chosen };
        return Err(section.error(key, kind));
    }
    let Some(pattern) = chosen else { return Ok(Pattern::LocalOnly) };
    let needs = |key| section.error("pattern", SpecErrorKind::PatternNeeds { pattern, key });
    let endpoint = |key| section.parsed(key)?.ok_or_else(|| needs(key));
    Ok(match pattern {
        PatternKind::LocalOnly => Pattern::LocalOnly,
        PatternKind::HubAndSpoke => Pattern::HubAndSpoke { hub: endpoint("hub")? },
        PatternKind::Chain => Pattern::Chain { upstream: endpoint("upstream")? },
        PatternKind::Broadcast => Pattern::Broadcast { source: endpoint("source")? },
        PatternKind::Aggregation => Pattern::Aggregation { sink: endpoint("sink")? },
        PatternKind::Star => Pattern::Star { role: read_role(section)? },
        PatternKind::Hierarchical => {
            Pattern::Hierarchical { master: section.parsed("master")?, edges: section.list("edges")? }
        }
        PatternKind::Mesh => Pattern::Mesh {
            peers: section.list("peers")?,
            discover: section.bool("discover")?.unwrap_or(false),
            fallback_to_local: section.bool("fallback_to_local")?.unwrap_or(true),
        },
    })
}

super::keyword::keyword! {
    /// The word for a place in a star.
    RoleWord {
        /// Links to its parent.
        Child = "child",
        /// Decides.
        Parent = "parent",
    }
}

fn read_role(section: &Section<'_>) -> Result<StarRole, SpecError> {
    let needs = || SpecErrorKind::PatternNeeds { pattern: PatternKind::Star, key: "parent" };
    match (section.parsed("role")?, section.parsed("parent")?) {
        (None | Some(RoleWord::Child), Some(parent)) => Ok(StarRole::Child { parent }),
        (Some(RoleWord::Parent), None) => Ok(StarRole::Parent),
        (Some(RoleWord::Parent), Some(_)) => Err(section.error("parent", SpecErrorKind::ParentOfParent)),
        (None | Some(RoleWord::Child), None) => Err(section.error("pattern", needs())),
    }
}

fn read_policy_of(section: &Section<'_>) -> Result<Option<PolicySpec>, SpecError> {
    section.section("policy")?.map(|policy| read_policy(&policy)).transpose()
}

fn read_policy(section: &Section<'_>) -> Result<PolicySpec, SpecError> {
    section.only(POLICY_KEYS)?;
    Ok(PolicySpec {
        teams: section.texts("teams")?,
        filter: section.filter("where", FilterUse::Policy)?,
        exclude_fields: section.fields("exclude_fields")?,
        encryption: read_encryption(section)?,
        compression: section.parsed("compression")?.unwrap_or(Compression::Auto),
        respect_rls: section.bool("respect_rls")?.unwrap_or(true),
        on_left_filter: section.parsed("on_left_filter")?.unwrap_or(OnRemoval::Remove),
        on_access_revoked: section.parsed("on_access_revoked")?.unwrap_or(OnRemoval::Remove),
        priority: section.small_integer("priority")?.unwrap_or(DEFAULT_PRIORITY),
        release_after_ack: section.bool("release_after_ack")?.unwrap_or(false),
    })
}

super::keyword::keyword! {
    /// The word for what is sealed.
    EncryptionWord {
        /// Nothing.
        SmartProxy = "smart-proxy",
        /// All but the routing fields.
        E2eOnly = "e2e-only",
    }
}

fn read_encryption(section: &Section<'_>) -> Result<EncryptionSpec, SpecError> {
    let routing_fields = section.fields("routing_fields")?;
    let encryption = if section.is_section("encryption") {
        let Some(inner) = section.section("encryption")? else { return Ok(EncryptionSpec::SmartProxy) };
        inner.only(ENCRYPTION_KEYS)?;
        EncryptionSpec::Seal(inner.fields("seal")?)
    } else {
        match section.parsed("encryption")? {
            None | Some(EncryptionWord::SmartProxy) => EncryptionSpec::SmartProxy,
            Some(EncryptionWord::E2eOnly) => return Ok(EncryptionSpec::E2eOnly { routing_fields }),
        }
    };
    if section.has("routing_fields") {
        return Err(section.error("routing_fields", SpecErrorKind::RoutingWithoutE2e));
    }
    Ok(encryption)
}
