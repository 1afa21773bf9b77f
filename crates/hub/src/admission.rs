//! Who is let in, and with which rights.
//!
//! Invariant: nothing is open unless it was declared so. A database without access rules lets nobody in, and a peer
//! of one with rules gets no further than they say: its changes pass the gate, and it is shown what `read` grants.

use std::sync::Arc;

use blazedb::{
    Admission, Admitted, Claim, Direction, Gate, Hello, NodeId, Rebind, Refusal, StoreError, Timestamp, User,
};
use blazedb_core::topology::grant;

use crate::listener::Served;

/// What a client may do that says `hello`, or why nothing. Reads and may write the database.
pub(crate) fn decide(
    name: &str,
    served: &Served,
    node: NodeId,
    user: Option<&User>,
    hello: &Hello,
) -> Result<Admitted, Refusal> {
    let store = served.database.store();
    let rights = served.access.for_user(user);
    let now = Timestamp::from_millis(store.now_ms());
    if !rights.may_connect(now) {
        let reason = format!("database {name}: the access rule `connect` does not let you in");
        return Err(Refusal::access(reason));
    }
    if hello.authority && store.is_decided_by(hello.replica) {
        let reason = format!("database {name}: {}", StoreError::Ring);
        return Err(Refusal::access(reason));
    }
    let granted = grant(served.serve, hello.direction);
    let granted_view = (!rights.is_public()).then(|| rights.read());
    let rebind = Rebind::of(&hello.request, granted_view);
    let view = hello.request.view(granted_view, now);
    let view =
        view.map_err(|error| Refusal::access(format!("database {name}: the policy's filter: {error}")))?;
    let admission = Admission {
        replica: store.replica(),
        head: store.head(),
        empty: store.is_empty().map_err(|error| failed(name, &error))?,
        direction: granted.direction,
        notice: granted.notice.map(|notice| format!("{name}: {notice}")).unwrap_or_default(),
        view: Arc::new(view),
        decides: hello.authority || store.decides(),
        compression: true,
        now_ms: store.now_ms(),
    };
    let both = Direction { push: true, pull: true };
    let begins_keyring = grant(served.serve, both).direction.push && rights.may_begin_keyring(now);
    let gate = (!rights.is_public()).then(|| Arc::new(Gate { rights, node }));
    // Last: who is turned away for any other reason has claimed nothing. Who says this node's own, the session turns away.
    if gate.is_some() && hello.replica != store.replica() {
        claim(name, served, node, hello)?;
    }
    Ok(Admitted { admission, gate, rebind, begins_keyring })
}

/// The replica belongs to the node that speaks for it first: what it writes is told apart by its id.
fn claim(name: &str, served: &Served, node: NodeId, hello: &Hello) -> Result<(), Refusal> {
    let replica = hello.replica;
    let claimed = served.database.store().claim_replica(replica, node);
    match claimed.map_err(|error| failed(name, &error))? {
        Claim::Granted => Ok(()),
        Claim::OfAnother => Err(Refusal::access(format!(
            "database {name}: replica {replica} belongs to another node. If its file was copied, or this node's \
             identity.key lost: `blazedb backup` and `blazedb restore` make a replica of its own of it"
        ))),
        Claim::TooMany => {
            Err(Refusal::access(format!("database {name}: this node has brought too many replicas")))
        }
    }
}

fn failed(name: &str, error: &StoreError) -> Refusal {
    Refusal::failure(format!("database {name}: {error}"))
}
