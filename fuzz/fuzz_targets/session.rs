//! A peer says whatever it likes, in any order: a session never panics, and says nothing after its end.
//!
//! The input is a byte that chooses the side, then frames, each behind its length in two bytes.
#![no_main]

use std::sync::Arc;

use blazedb_core::ReplicaId;
use blazedb_core::feed::FeedBatch;
use blazedb_core::session::{
    Admission, Input, LocalReplica, Output, PeerReplica, ReconcileItem, ReconcileSet, Session,
};
use blazedb_core::view::{View, ViewRequest};
use blazedb_core::wire::{Direction, Refusals};
use libfuzzer_sys::fuzz_target;

const BOTH: Direction = Direction { push: true, pull: true };

fn client() -> Session {
    let local = LocalReplica {
        replica: ReplicaId::from_bytes([9; 16]),
        head: 5,
        empty: false,
        direction: BOTH,
        compression: true,
        checkpoint: None,
        fence: 0,
        request: ViewRequest::default(),
        view: Arc::new(View::all()),
        authority: false,
        token: None,
        now_ms: 0,
    };
    Session::client(local, 0)
}

fn admission() -> Admission {
    Admission {
        replica: ReplicaId::from_bytes([8; 16]),
        head: 5,
        empty: false,
        direction: BOTH,
        notice: String::new(),
        view: Arc::new(View::all()),
        decides: true,
        compression: true,
        now_ms: 0,
    }
}

fn set() -> ReconcileSet {
    let item = |no: u8| ReconcileItem {
        order: no.into(),
        hash: [no; 32],
        id: blazedb_core::RecordId::from_bytes([no; 16]),
    };
    let items: Vec<_> = (1..20).map(item).collect();
    ReconcileSet { snapshot: 5, history: items.clone(), content: items, unshown: Vec::new() }
}

/// What a driver with a store that has nothing answers.
fn answer(output: &Output) -> Option<Input> {
    let peer = || PeerReplica {
        peer_no: 1,
        checkpoint: None,
        held: Vec::new(),
        unsettled: false,
        refusals: false,
    };
    Some(match output {
        Output::FeedEnd => Input::FeedEnd(5),
        Output::Admit(_) => Input::Admitted(Ok(admission())),
        Output::Peer(_) => Input::Peer(peer()),
        Output::Token(_) => Input::TokenAccepted,
        Output::Read { .. } | Output::ReadWanted(..) => Input::Feed(Arc::<FeedBatch>::default()),
        Output::ReadUnshown(..) => Input::Unshown(Arc::<FeedBatch>::default()),
        Output::ReadBirths(_) => Input::Held(Vec::new()),
        Output::BuildReconcileSet(_) => Input::ReconcileSet(Box::new(set())),
        Output::Apply(_) => Input::Applied(1),
        Output::ReadRefusals { .. } => Input::Refusals(Refusals::default(), false),
        Output::TakeRefusals(_) => Input::RefusalsTaken,
        _ => return None,
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Some((side, mut rest)) = bytes.split_first() else { return };
    let mut session = if side % 2 == 0 { Session::server(0) } else { client() };
    let mut now = 0;
    let mut over = false;
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (frame, behind) = behind.split_at(usize::from(u16::from_le_bytes(*length)).min(behind.len()));
        rest = behind;
        now += 1;
        session.handle(now, Input::Frame(frame.to_vec()));
        let mut outputs = 0;
        while let Some(output) = session.poll_output() {
            assert!(!over, "{output:?} after the end");
            over = matches!(output, Output::Closed(_));
            outputs += 1;
            assert!(outputs < 10_000, "it goes on for ever: {output:?}");
            if let Some(input) = answer(&output) {
                session.handle(now, input);
            }
        }
    }
});
