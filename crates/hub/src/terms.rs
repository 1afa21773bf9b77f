//! Links of a topology file, as the coordinator takes them.

use blazedb::{Endpoint, Filter, Fingerprint, RemoteNode, Removal, SyncPolicy};
use blazedb_core::topology::{self, LinkSpec, OnRemoval, SyncSpec};

use crate::node::NodeError;

/// What a link connects to and how it syncs, as the coordinator takes it.
pub(crate) fn terms(name: &str, link: &LinkSpec) -> Result<(RemoteNode, SyncPolicy), NodeError> {
    let mut remote = RemoteNode::at(link.target.clone(), link.remote.as_str());
    if let Some(key) = remote_key(name, link)? {
        remote = remote.key(key);
    }
    let compression = link.policy.compression != topology::Compression::Never;
    let policy = sync_policy(name, link)?.compression(compression);
    let policy = policy.encryption(link.policy.encryption.clone());
    let policy = policy.optional(link.optional).authority(link.remote_is_authority);
    Ok((remote, policy.pattern(link.pattern.as_str())))
}

/// What a link to a peer that was found connects to and how it syncs; the address stands for all that may be found.
pub(crate) fn found_terms(name: &str, sync: &SyncSpec) -> Result<(RemoteNode, SyncPolicy), NodeError> {
    let whole = |problem: String| NodeError::Spec { name: name.to_owned(), problem };
    let anywhere: Endpoint = "ws://peer.local".parse().map_err(|error| whole(format!("{error}")))?;
    let link =
        topology::peer_link(sync, anywhere).ok_or_else(|| whole("it looks for no peers".to_owned()))?;
    terms(name, &link)
}

/// The key that the other node must have, if it is given.
pub(crate) fn remote_key(name: &str, link: &LinkSpec) -> Result<Option<Fingerprint>, NodeError> {
    let key = link.remote_key.as_ref().map(|key| key.parse::<Fingerprint>()).transpose();
    key.map_err(|error| NodeError::Key { name: name.to_owned(), error })
}

/// A link's mode and policy, as the coordinator takes them.
fn sync_policy(database: &str, link: &LinkSpec) -> Result<SyncPolicy, NodeError> {
    let removal = |action| match action {
        OnRemoval::Remove => Removal::Remove,
        OnRemoval::Keep => Removal::Keep,
        OnRemoval::Shred => Removal::Shred,
    };
    let LinkSpec { mode, policy, .. } = link;
    let sync = SyncPolicy::new()
        .mode(*mode)
        .teams(policy.teams.iter().map(String::as_str))
        .exclude(policy.exclude_fields.iter().map(String::as_str))
        .on_left_filter(removal(policy.on_left_filter))
        .on_access_revoked(removal(policy.on_access_revoked))
        .priority(policy.priority)
        .respect_rls(policy.respect_rls)
        .release_after_ack(policy.release_after_ack);
    let Some(filter) = &policy.filter else { return Ok(sync) };
    let filter = Filter::parse(&filter.text).map_err(|error| NodeError::Spec {
        name: database.to_owned(),
        problem: format!("policy: where: {error}"),
    })?;
    Ok(sync.filter(filter))
}
