//! Snapshots over lines that break, lie and mix things up.

use raft::eraftpb::{MessageType, Snapshot, SnapshotMetadata};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::tests::harness::soon;

fn snapshot(bytes: usize) -> (Offer, Bytes) {
    let data: Bytes = (0..bytes).map(|at| (at * 7 % 251) as u8).collect::<Vec<u8>>().into();
    let mut message = Message { term: 3, from: 1, to: 2, ..Message::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    let metadata = SnapshotMetadata { index: 9, term: 3, conf_state: None };
    message.snapshot = Some(Snapshot { data: Vec::new(), metadata: Some(metadata) });
    (Offer { bytes: bytes as u64, sha256: crypto::sha256(&data), message }, data)
}

/// Receives one snapshot as a server does.
async fn take(partials: &Partials, line: DuplexStream) -> Result<(Offer, Vec<u8>), FrameError> {
    let (mut reader, mut writer) = tokio::io::split(line);
    let offer = read_offer(&mut reader).await?;
    let data = receive(&offer, partials, &mut reader, &mut writer).await?;
    confirm(&mut writer).await?;
    Ok((offer, data))
}

async fn give(offer: &Offer, data: &Bytes, line: DuplexStream) -> Result<u64, FrameError> {
    let (mut reader, mut writer) = tokio::io::split(line);
    send(offer.clone(), data, &mut reader, &mut writer, || {}).await
}

/// Carries bytes from the sender to the receiver until `limit`, then breaks the line.
async fn carry(from: DuplexStream, to: DuplexStream, limit: u64) {
    let (mut from_reader, mut from_writer) = tokio::io::split(from);
    let (mut to_reader, mut to_writer) = tokio::io::split(to);
    let there = async {
        let mut limited = (&mut from_reader).take(limit);
        let _ = tokio::io::copy(&mut limited, &mut to_writer).await;
    };
    let back = async {
        let _ = tokio::io::copy(&mut to_reader, &mut from_writer).await;
    };
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}

#[tokio::test]
async fn fault_35_a_snapshot_goes_on_where_the_line_broke() {
    let (offer, data) = snapshot(5 << 20);
    let partials = Partials::default();
    let mut sent = 0;
    for attempt in 1.. {
        assert!(attempt < 20, "it never arrives");
        let ((sender, near), (far, receiver)) = (duplex(64 << 10), duplex(64 << 10));
        let (given, taken, ()) =
            tokio::join!(give(&offer, &data, sender), take(&partials, receiver), carry(near, far, 1 << 20));
        match (given, taken) {
            (Ok(rest), Ok((_, received))) => {
                assert!(received == data, "another snapshot arrived");
                sent = rest;
                assert!(attempt > 4, "the line broke every megabyte");
                break;
            }
            (Err(_), Err(_)) => {}
            // Everything may have arrived just as the line broke.
            (Err(_), Ok(_)) | (Ok(_), Err(_)) => panic!("the two sides disagree"),
        }
    }
    assert!(sent <= 1 << 20, "only what was missing is sent again, not {sent} bytes");
}

/// Carries bytes from the sender to the receiver a little at a time, with pauses.
async fn carry_slowly(from: DuplexStream, to: DuplexStream) {
    let (mut from_reader, mut from_writer) = tokio::io::split(from);
    let (mut to_reader, mut to_writer) = tokio::io::split(to);
    let there = async {
        let mut some = vec![0; 8 << 10];
        while let Ok(count @ 1..) = from_reader.read(&mut some).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if to_writer.write_all(&some[..count]).await.is_err() {
                break;
            }
        }
    };
    let back = async {
        let _ = tokio::io::copy(&mut to_reader, &mut from_writer).await;
    };
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}

#[tokio::test]
async fn fault_35_over_a_slow_line_a_snapshot_arrives_at_once_and_its_progress_is_told() {
    let (offer, data) = snapshot(1 << 20);
    let partials = Partials::default();
    let ((sender, near), (far, receiver)) = (duplex(4 << 10), duplex(4 << 10));
    let mut told = 0;
    let give = async {
        let (mut reader, mut writer) = tokio::io::split(sender);
        send(offer.clone(), &data, &mut reader, &mut writer, || told += 1).await
    };
    let (given, taken, ()) = tokio::join!(give, take(&partials, receiver), carry_slowly(near, far));
    assert_eq!(given.unwrap(), data.len() as u64, "it goes over the line once");
    assert!(taken.unwrap().1 == data, "another snapshot arrived");
    // While it is told, a leader does not take the receiver for lost.
    assert_eq!(told, data.len() / PIECE_BYTES);
}

#[tokio::test]
async fn r7_pieces_that_are_missing_doubled_or_mixed_up_are_refused_and_forgotten() {
    let (offer, data) = snapshot(1000);
    let piece = |from: usize, to: usize| Frame::SnapshotPiece { offset: from as u64, data: data.slice(from..to) };
    let rows: [(&str, Vec<Frame>); 5] = [
        ("out of order", vec![piece(500, 1000), piece(0, 500)]),
        ("doubled", vec![piece(0, 500), piece(0, 500)]),
        ("a gap", vec![piece(0, 400), piece(500, 1000)]),
        ("too much", vec![piece(0, 999), Frame::SnapshotPiece { offset: 999, data: data.slice(0..10) }]),
        ("another frame", vec![piece(0, 500), Frame::Alive]),
    ];
    for (what, frames) in rows {
        let partials = Partials::default();
        let (mut line, receiver) = duplex(1 << 20);
        frame::write(&mut line, &Frame::SnapshotOffer(Box::new(offer.clone()))).await.unwrap();
        for frame in &frames {
            frame::write(&mut line, frame).await.unwrap();
        }
        let error = take(&partials, receiver).await.unwrap_err();
        assert!(matches!(error, FrameError::Snapshot { .. } | FrameError::Unexpected { .. }), "{what}: {error}");
        assert!(partials.lock().kept.is_none(), "{what}: nothing of it is gone on with");
    }
}

#[tokio::test]
async fn r7_a_snapshot_that_is_not_the_one_offered_is_never_handed_on() {
    let (mut offer, data) = snapshot(300_000);
    offer.sha256[7] ^= 1;
    let partials = Partials::default();
    let (sender, receiver) = duplex(64 << 10);
    let (given, taken) = tokio::join!(give(&offer, &data, sender), take(&partials, receiver));
    assert!(matches!(taken, Err(FrameError::Snapshot { .. })));
    assert!(given.is_err(), "the sender is not told that it was taken");
    assert!(partials.lock().kept.is_none());
}

#[tokio::test]
async fn r7_what_is_there_of_one_snapshot_is_no_part_of_another() {
    let (old, old_data) = snapshot(600_000);
    let (new, new_data) = snapshot(700_000);
    let partials = Partials::default();
    let ((sender, near), (far, receiver)) = (duplex(64 << 10), duplex(64 << 10));
    let (given, taken, ()) =
        tokio::join!(give(&old, &old_data, sender), take(&partials, receiver), carry(near, far, 400_000));
    assert!(given.is_err() && taken.is_err());
    assert!(partials.lock().kept.is_some());
    let (sender, receiver) = duplex(64 << 10);
    let (given, taken) = tokio::join!(give(&new, &new_data, sender), take(&partials, receiver));
    assert_eq!(given.unwrap(), new.bytes, "all of the new one is sent");
    assert!(taken.unwrap().1 == new_data, "it is the new one");
}

#[tokio::test]
async fn r5_an_offer_beyond_all_bounds_is_refused_before_anything_is_kept() {
    for bytes in [0, SNAPSHOT_BYTES_MAX + 1, u64::MAX] {
        let (offer, _) = snapshot(10);
        let (mut line, receiver) = duplex(1 << 16);
        frame::write(&mut line, &Frame::SnapshotOffer(Box::new(Offer { bytes, ..offer }))).await.unwrap();
        let error = take(&Partials::default(), receiver).await.unwrap_err();
        assert!(matches!(error, FrameError::Snapshot { .. }), "{bytes}: {error}");
    }
    // The sender checks what it is told as well.
    let (offer, data) = snapshot(10);
    let (sender, mut line) = duplex(1 << 16);
    frame::write(&mut line, &Frame::SnapshotFrom(11)).await.unwrap();
    let error = give(&offer, &data, sender).await.unwrap_err();
    assert!(matches!(error, FrameError::Snapshot { .. }), "{error}");
    line.shutdown().await.unwrap();
}

#[tokio::test]
async fn r8_a_newer_attempt_takes_over_from_one_that_hangs() {
    let (offer, data) = snapshot(500_000);
    let partials = std::sync::Arc::new(Partials::default());
    let (mut line, receiver) = duplex(1 << 20);
    frame::write(&mut line, &Frame::SnapshotOffer(Box::new(offer.clone()))).await.unwrap();
    frame::write(&mut line, &Frame::SnapshotPiece { offset: 0, data: data.slice(0..100_000) }).await.unwrap();
    let hanging = {
        let partials = std::sync::Arc::clone(&partials);
        tokio::spawn(async move { take(&partials, receiver).await.map(|_| ()) })
    };
    // The answer to the offer says that it was read.
    assert!(matches!(frame::read(&mut line).await, Ok((Frame::SnapshotFrom(0), _))));
    soon(async {
        while partials.lock().kept.is_some() || partials.lock().holder.is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    hanging.abort();
    let (sender, receiver) = duplex(64 << 10);
    let (given, taken) = tokio::join!(give(&offer, &data, sender), take(&partials, receiver));
    assert!(given.unwrap() <= 500_000);
    assert!(taken.unwrap().1 == data);
}

#[tokio::test]
async fn r8_a_receiver_that_was_passed_over_does_not_free_the_newer_ones_slot() {
    let (offer, data) = snapshot(1000);
    let partials = Partials::default();
    let mut older = partials.take(&offer).await;
    older.add(0, &data[..100], &offer).unwrap();
    let mut newer = partials.take(&offer).await;
    newer.add(0, &data[..300], &offer).unwrap();
    drop(older);
    assert!(partials.lock().holder.is_some() && partials.lock().kept.is_none(), "the newer one is at work");
    drop(newer);
    assert!(partials.lock().holder.is_none());
    assert_eq!(partials.lock().kept.as_ref().map(|kept| kept.data.len()), Some(300));
}
