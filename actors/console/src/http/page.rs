//! The page's files, as they are in `ui/`.

use std::sync::LazyLock;

use actix_web::http::header::{self, EntityTag, IfNoneMatch};
use actix_web::{HttpRequest, HttpResponse, Responder, web};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rust_embed::RustEmbed;
use standin_foundation::Digest;

#[derive(RustEmbed)]
#[folder = "ui/"]
struct Ui;

/// What the page may load: its own files, and the one script that stands in it, the import map.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let map = Ui::get("index.html").and_then(|index| import_map(&String::from_utf8_lossy(&index.data)));
    let hash = map.map(|map| STANDARD.encode(Digest::sha256(map.as_bytes()).0)).unwrap_or_default();
    format!(
        "default-src 'none'; script-src 'self' 'sha256-{hash}'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

fn import_map(index: &str) -> Option<String> {
    let (_, rest) = index.split_once("<script type=\"importmap\">")?;
    Some(rest.split_once("</script>")?.0.to_owned())
}

pub(super) async fn redirect() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, "console/")).finish()
}

pub(super) async fn file(
    path: web::Path<String>,
    known: web::Header<IfNoneMatch>,
    request: HttpRequest,
) -> impl Responder {
    let path = if path.is_empty() { "index.html".to_owned() } else { path.into_inner() };
    let Some(file) = Ui::get(&path) else {
        return HttpResponse::NotFound().body(format!("there is no {}\n", request.path()));
    };
    let hash: String = file.metadata.sha256_hash().iter().map(|byte| format!("{byte:02x}")).collect();
    let tag = EntityTag::new_strong(hash);
    let is_known = match known.into_inner() {
        IfNoneMatch::Any => true,
        IfNoneMatch::Items(tags) => tags.iter().any(|known| known.weak_eq(&tag)),
    };
    let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        .insert_header(header::ETag(tag))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY.as_str()))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"));
    match is_known {
        true => response.finish(),
        false => response.content_type(type_of(&path)).body(file.data.into_owned()),
    }
}

fn type_of(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, end)| end) {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        _ => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_was_vendored_is_as_it_was_published() {
        let list: Value = serde_json::from_slice(&Ui::get("vendor/VENDOR.json").unwrap().data).unwrap();
        let files = list["files"].as_object().unwrap();
        let vendored = Ui::iter().filter(|path| path.starts_with("vendor/") && !path.contains("LICENSE"));
        let vendored: Vec<_> = vendored.filter(|path| path != "vendor/VENDOR.json").collect();
        assert_eq!(vendored.len(), files.len(), "{vendored:?}");
        for (name, about) in files {
            let file = Ui::get(&format!("vendor/{name}")).unwrap();
            assert_eq!(about["sha256"], Digest::sha256(&file.data).to_string(), "{name}");
            let license = format!("vendor/LICENSES/{}", about["license_file"].as_str().unwrap());
            assert!(Ui::get(&license).is_some(), "{license}");
        }
    }

    #[test]
    fn the_page_is_there_and_asks_nobody_else() {
        let own = Ui::iter().filter(|path| !path.starts_with("vendor/"));
        let own: Vec<_> = own.collect();
        assert!(own.iter().any(|path| path == "index.html") && own.iter().any(|path| path == "app.js"), "{own:?}");
        for path in own {
            let text = String::from_utf8(Ui::get(&path).unwrap().data.into_owned()).unwrap();
            let foreign = text.match_indices("http").filter(|(at, _)| {
                let rest = &text[*at..];
                rest.starts_with("http://") || rest.starts_with("https://")
            });
            let foreign: Vec<_> = foreign.map(|(at, _)| text[at..].chars().take(40).collect::<String>()).collect();
            // The one name that looks like an address and is none.
            assert!(foreign.iter().all(|place| place.starts_with("http://www.w3.org/")), "{path}: {foreign:?}");
        }
        assert!(POLICY.contains("'sha256-") && !POLICY.contains("'sha256-'"), "{}", *POLICY);
    }
}
