//! What the property tests draw: any message.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn replica() -> impl Strategy<Value = ReplicaId> {
    prop_oneof![any::<[u8; 16]>(), (1u8..4).prop_map(|no| [no; 16])].prop_map(ReplicaId::from_bytes)
}

fn seq() -> impl Strategy<Value = Seq> {
    prop_oneof![0u64..50, any::<u64>()]
}

fn direction() -> impl Strategy<Value = Direction> {
    (any::<bool>(), any::<bool>()).prop_map(|(push, pull)| Direction { push, pull })
}

fn hello() -> impl Strategy<Value = Message> {
    let checkpoint = prop::option::of((replica(), seq()));
    (replica(), seq(), any::<bool>(), direction(), any::<bool>(), checkpoint, seq()).prop_map(
        |(replica, head, empty, direction, compression, checkpoint, now_ms)| {
            Message::Hello(Hello { replica, head, empty, direction, compression, checkpoint, now_ms })
        },
    )
}

fn welcome() -> impl Strategy<Value = Message> {
    (replica(), seq(), direction(), ".{0,20}", any::<bool>(), seq(), any::<bool>(), seq()).prop_map(
        |(replica, head, direction, notice, compression, push_after, reconcile, now_ms)| {
            Message::Welcome(Welcome {
                replica,
                head,
                direction,
                notice,
                compression,
                push_after,
                reconcile,
                now_ms,
            })
        },
    )
}

fn names() -> impl Strategy<Value = Message> {
    let name = ".{0,20}".prop_map(|name: String| name.into());
    (vec((any::<u32>(), name), 0..5), vec((any::<u32>(), replica()), 0..5))
        .prop_map(|(fields, writers)| Message::Names(NamesMessage { fields, writers }))
}

fn changes() -> impl Strategy<Value = Message> {
    (prop::option::of(seq()), seq(), seq(), any::<bool>(), vec(any::<u8>(), 0..50)).prop_map(
        |(upto, head, has, compressed, data)| Message::Changes(Changes { upto, head, has, compressed, data }),
    )
}

/// Any message.
pub(crate) fn message() -> impl Strategy<Value = Message> {
    let code = prop::sample::select(CloseCode::ALL.map(|(_, code)| code).to_vec());
    prop_oneof![
        hello(),
        welcome(),
        names(),
        changes(),
        seq().prop_map(Message::Ack),
        Just(Message::Ping),
        Just(Message::Pong),
        (vec(any::<u64>(), 0..9), vec(any::<u64>(), 0..9))
            .prop_map(|(content, history)| Message::Sketch { content, history }),
        any::<bool>().prop_map(|content| Message::CompareBy { content }),
        vec(any::<u8>(), 0..50).prop_map(Message::Reconcile),
        (vec(any::<[u8; 32]>(), 0..4), any::<bool>())
            .prop_map(|(hashes, last)| Message::Want { hashes, last }),
        (code, ".{0,20}").prop_map(|(code, text)| Message::Close(code, text)),
    ]
}
