//! What the property tests draw: any message.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::access::Operation;
use crate::view::ViewRequest;

fn replica() -> impl Strategy<Value = ReplicaId> {
    prop_oneof![any::<[u8; 16]>(), (1u8..4).prop_map(|no| [no; 16])].prop_map(ReplicaId::from_bytes)
}

fn seq() -> impl Strategy<Value = Seq> {
    prop_oneof![0u64..50, any::<u64>()]
}

fn direction() -> impl Strategy<Value = Direction> {
    (any::<bool>(), any::<bool>()).prop_map(|(push, pull)| Direction { push, pull })
}

fn hello() -> impl Strategy<Value = Hello> {
    let checkpoint = prop::option::of((replica(), seq()));
    let request = (prop::option::of(".{1,20}"), vec(".{0,10}", 0..3))
        .prop_map(|(filter, excluded)| ViewRequest { filter, excluded });
    let fence = prop_oneof![Just(0), seq()];
    let asked = (request, prop::option::of(token()), any::<bool>(), fence);
    (replica(), seq(), any::<bool>(), direction(), any::<bool>(), checkpoint, asked, seq()).prop_map(
        |(
            replica,
            head,
            empty,
            direction,
            compression,
            checkpoint,
            (request, token, authority, fence),
            now_ms,
        )| {
            Hello {
                replica,
                head,
                empty,
                direction,
                compression,
                checkpoint,
                fence,
                request,
                authority,
                token,
                now_ms,
            }
        },
    )
}

fn token() -> impl Strategy<Value = Token> {
    "[!-~]{1,40}".prop_map(|text: String| text.parse().unwrap())
}

fn welcome() -> impl Strategy<Value = Welcome> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (replica(), seq(), direction(), ".{0,20}", flags, seq(), seq()).prop_map(
        |(replica, head, direction, notice, flags, push_after, now_ms)| {
            let (compression, reconcile, restricted, refusals, decides) = flags;
            Welcome {
                replica,
                head,
                direction,
                notice,
                compression,
                push_after,
                reconcile,
                restricted,
                refusals,
                decides,
                now_ms,
            }
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

fn refused() -> impl Strategy<Value = RefusedWrite> {
    let operation = prop::sample::select(vec![Operation::Insert, Operation::Delete, Operation::Relay]);
    let part = || vec(any::<u8>(), 0..9);
    let state = prop::option::of((part(), part()).prop_map(|(history, body)| RefusedState { history, body }));
    (any::<[u8; 16]>(), operation, seq(), replica(), ".{0,20}", state).prop_map(
        |(id, operation, time, writer, reason, state)| RefusedWrite {
            no: 0,
            id: RecordId::from_bytes(id),
            operation,
            stamp: Stamp::new(Hlc(time), writer),
            reason,
            state,
        },
    )
}

fn refusals() -> impl Strategy<Value = Message> {
    (names(), vec(refused(), 1..4)).prop_map(|(names, mut writes)| {
        let Message::Names(names) = names else { unreachable!() };
        (1u64..).zip(&mut writes).for_each(|(no, write)| write.no = no * 100);
        Message::Refusals(Refusals { names, writes })
    })
}

fn coded() -> impl Strategy<Value = Coded> {
    let symbol = (any::<u64>(), any::<u32>()).prop_map(|(sum, check)| CodedSymbol { sum, check });
    prop_oneof![
        vec(symbol, 0..9).prop_map(Coded::Symbols),
        any::<u64>().prop_map(Coded::More),
        (vec(any::<u64>(), 0..9), any::<[u8; 32]>())
            .prop_map(|(wanted, common)| Coded::Difference { wanted, common }),
        any::<bool>().prop_map(Coded::Agreed),
    ]
}

/// Any message.
pub(crate) fn message() -> impl Strategy<Value = Message> {
    let code = prop::sample::select(CloseCode::ALL.map(|(_, code)| code).to_vec());
    prop_oneof![
        hello().prop_map(Message::Hello),
        welcome().prop_map(Message::Welcome),
        names(),
        changes(),
        vec(any::<[u8; 16]>(), 0..4).prop_map(|bonds| Message::Bonds(bonds.into_iter().map(Bond).collect())),
        seq().prop_map(Message::Ack),
        Just(Message::Ping),
        Just(Message::Pong),
        Just(Message::Probe),
        seq().prop_map(Message::FeedEnd),
        (vec(any::<u64>(), 0..9), vec(any::<u64>(), 0..9))
            .prop_map(|(content, history)| Message::Sketch { content, history }),
        any::<bool>().prop_map(|content| Message::CompareBy { content }),
        coded().prop_map(Message::Coded),
        vec(any::<u8>(), 0..50).prop_map(Message::Reconcile),
        (vec(any::<[u8; 32]>(), 0..4), any::<bool>())
            .prop_map(|(hashes, last)| Message::Want { hashes, last }),
        vec((any::<[u8; 16]>(), seq(), replica()), 0..4).prop_map(|held| {
            let stamp = |(id, time, writer)| (RecordId::from_bytes(id), Stamp::new(Hlc(time), writer));
            Message::Held(held.into_iter().map(stamp).collect())
        }),
        refusals(),
        seq().prop_map(Message::RefusalsTaken),
        (code, ".{0,20}").prop_map(|(code, text)| Message::Close(code, text)),
        token().prop_map(Message::Token),
        (seq(), hello()).prop_map(|(epoch, hello)| Message::Reconfigure(epoch, hello)),
        (seq(), welcome()).prop_map(|(epoch, welcome)| Message::Reconfigured(epoch, welcome)),
    ]
}
