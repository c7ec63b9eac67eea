//! A backup, as it is made.

use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;

use super::reading::MayRead;
use super::{ErrorView, unavailable};
use crate::node::{BackupFailed, NodeHandle};

/// Pieces that wait to be sent.
const PIECES_AHEAD: usize = 2;
/// A reader that takes no piece within this time is let go.
const PIECE_WITHIN: Duration = Duration::from_secs(60);

/// Streams the state at the newest proven checkpoint, with its proofs. The last frame says that it is whole.
pub(super) async fn backup(_: MayRead, node: web::Data<NodeHandle>) -> HttpResponse {
    let (mut backup, permit) = match node.backups.fetch(&node).await {
        Ok(begun) => begun,
        Err(error @ (BackupFailed::Busy | BackupFailed::NotRead | BackupFailed::NoCheckpoint)) => {
            return unavailable(error.to_string());
        }
        Err(error) => return HttpResponse::InternalServerError().json(ErrorView::from(error.to_string())),
    };
    let name = format!("attachment; filename=\"{}-{}.backup\"", node.genesis.chain, backup.height());
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    actix_web::rt::spawn(async move {
        let _permit = permit;
        loop {
            let piece = match backup.next_piece() {
                Ok(piece) => Ok(piece.map(Bytes::from)),
                Err(error) => Err(std::io::Error::other(error)),
            };
            let is_last = !matches!(piece, Ok(Some(_)));
            // Whoever reads nothing for so long gives its place to others; whoever has gone, at once.
            let taken = tokio::time::timeout(PIECE_WITHIN, sender.send(piece)).await;
            if is_last || !matches!(taken, Ok(Ok(()))) {
                return;
            }
        }
    });
    // Without the word that it is whole, it ends as an error, and not as a short file.
    let pieces = stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Ok(Some(piece))) => Some((Ok(piece), Some(receiver))),
            Some(Ok(None)) => None,
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((Err(std::io::ErrorKind::UnexpectedEof.into()), None)),
        }
    });
    HttpResponse::Ok()
        .content_type("application/octet-stream")
        .insert_header((header::CONTENT_DISPOSITION, name))
        .streaming(pieces)
}
