#![no_main]
//! What is read from the store's files: any bytes give frames, flaws and a torn tail, in order and without a gap; what is
//! read from a body is what would be written.

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use relaystream::store::disk::frame::{Found, Frames, HEAD, Kind};
use relaystream::store::disk::record::{Appended, Claimed, Created, State, append, claim, create, released};

fuzz_target!(|bytes: &[u8]| {
    let mut end = 0;
    for found in Frames::new(bytes) {
        end = match found {
            Found::Frame { at, head, .. } => {
                assert_eq!(at, end);
                at + HEAD + head.length
            }
            Found::Damaged { at, length, .. } => {
                assert!(at == end && length > 0);
                at + length
            }
            Found::Torn { at, .. } => {
                assert_eq!(at, end);
                bytes.len()
            }
        };
    }
    assert_eq!(end, bytes.len());

    // As a body of each kind: few inputs have a checksum that is right.
    let body = Bytes::copy_from_slice(bytes);
    let log = relaystream::log::LogId(1);
    let same = |kind: Kind, frame: &[u8]| {
        let found = Frames::new(frame).next();
        assert!(matches!(found, Some(Found::Frame { head, .. }) if head.kind == kind));
    };
    if let Some(created) = Created::read(body.clone()) {
        let frame = create(log, &created.meta, &created.plan);
        assert_eq!(Created::read(Bytes::copy_from_slice(&frame[HEAD..])), Some(created));
        same(Kind::Create, &frame);
    }
    if let Some(appended) = Appended::read(body.clone()) {
        let Appended { expected, epoch, drafts, sealed_ms } = appended.clone();
        let frame = append(log, expected, epoch, &drafts, sealed_ms);
        assert_eq!(Appended::read(Bytes::copy_from_slice(&frame[HEAD..])), Some(appended));
        same(Kind::Append, &frame);
    }
    if let Some(state) = State::read(body.clone()) {
        let frame = state.frame(log);
        assert_eq!(State::read(Bytes::copy_from_slice(&frame[HEAD..])), Some(state));
        same(Kind::State, &frame);
    }
    if let Some(claimed) = Claimed::read(body.clone()) {
        let frame = claim(&claimed.key, &claimed.value, claimed.until_ms);
        assert_eq!(Claimed::read(Bytes::copy_from_slice(&frame[HEAD..])), Some(claimed));
        same(Kind::Claim, &frame);
    }
    let _key = released(body);
});
