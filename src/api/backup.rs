//! A backup, as it is made.

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;

use super::reading::MayRead;
use super::{ErrorView, unavailable};
use crate::node::{BackupFailed, NodeHandle};

/// Streams the state at the newest proven checkpoint, with its proofs. The last frame says that it is whole.
pub(super) async fn backup(_: MayRead, node: web::Data<NodeHandle>) -> HttpResponse {
    let (backup, permit) = match node.backups.begin(&node).await {
        Ok(begun) => begun,
        Err(error @ (BackupFailed::Busy | BackupFailed::NotRead | BackupFailed::NoCheckpoint)) => {
            return unavailable(error.to_string());
        }
        Err(error) => return HttpResponse::InternalServerError().json(ErrorView::from(error.to_string())),
    };
    let name = format!("attachment; filename=\"{}-{}.backup\"", node.genesis.chain, backup.height());
    // Whoever reads slowly holds the place, and nothing but the cut state.
    let pieces = stream::try_unfold((backup, permit), |(mut backup, permit)| async move {
        let piece = backup.next_piece().map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>(piece.map(|piece| (Bytes::from(piece), (backup, permit))))
    });
    HttpResponse::Ok()
        .content_type("application/octet-stream")
        .insert_header((header::CONTENT_DISPOSITION, name))
        .streaming(pieces)
}
