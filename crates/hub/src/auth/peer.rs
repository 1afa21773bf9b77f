//! The other side of a session, once it is known who it is.

use std::sync::Arc;

use blazedb::{Fingerprint, NodeId};
use blazedb_core::filter::User;
use blazedb_transport::PublicKey;

use super::verify::Verified;

/// Who is at the other end: the node, proven by the handshake, and the user, proven by a token.
#[derive(Clone, PartialEq, Debug)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// The fingerprint of its key.
    pub fingerprint: Fingerprint,
    /// Its user; `None`: nobody in particular (`anonymous`), of whom rules know nothing.
    pub user: Option<Arc<User>>,
    /// Until when the user is known, in seconds since the Unix epoch; `None`: as long as the session lasts.
    pub expires: Option<u64>,
    /// The id of the token.
    pub token: Option<String>,
}

impl Peer {
    /// The node with this key, whoever uses it.
    #[must_use]
    pub fn anonymous(key: &PublicKey) -> Self {
        Self { node: key.node_id(), fingerprint: key.fingerprint(), user: None, expires: None, token: None }
    }

    /// The node with this key, and the user of its token.
    #[must_use]
    pub fn with_token(key: &PublicKey, verified: Verified) -> Self {
        let Verified { user, expires, id, .. } = verified;
        Self { user: Some(user), expires: Some(expires), token: id, ..Self::anonymous(key) }
    }
}
