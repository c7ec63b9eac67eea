//! A web shop whose orders stand in a chain: an Actix application with a member of the chain inside. Four shops run here, in one process; in
//! life each company runs its own.
//!
//!     cargo run --release --example web_shop            # serves until Ctrl-C
//!     cargo run --release --example web_shop -- --once  # buys a book from itself, and ends
#![allow(clippy::print_stdout, clippy::expect_used, reason = "an example says what it does")]

use actix_web::{App, HttpResponse, HttpServer, Responder, get, post, web};
use serde::{Deserialize, Serialize};
use standin::testing::TestNetwork;
use standin::{Application, Call, Freshness, Node, Reject, Store, StoreView, SubmitError};

/// Keeps stock. Two shops cannot sell the same last book.
struct Shop;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Command {
    Deliver { article: String, count: u64 },
    Buy { article: String },
}

impl Application for Shop {
    type Command = Command;
    type Output = u64;
    type Query = String;
    type Answer = u64;

    fn apply(&self, _: &Call<'_>, command: Command, store: &mut Store<'_, '_>) -> Result<u64, Reject> {
        let (article, change) = match command {
            Command::Deliver { article, count } => (article, i128::from(count)),
            Command::Buy { article } => (article, -1),
        };
        let stock: u64 = store.get(&article)?.unwrap_or_default();
        let left =
            u64::try_from(i128::from(stock) + change).map_err(|_| Reject::new(format!("{article} is sold out")))?;
        store.put(&article, &left)?;
        Ok(left)
    }

    fn query(&self, store: &StoreView<'_>, article: String) -> Result<u64, Reject> {
        Ok(store.get(&article)?.unwrap_or_default())
    }
}

#[post("/orders")]
async fn order(node: web::Data<Node<Shop>>, command: web::Json<Command>) -> impl Responder {
    match node.submit(&command).await {
        Ok(done) => HttpResponse::Created().json(serde_json::json!({ "block": done.height, "left": done.output })),
        Err(SubmitError::Rejected { reason, .. }) => HttpResponse::Conflict().body(reason),
        // The client asks again with the id, and nothing is bought twice.
        Err(SubmitError::OutcomeUnknown { id }) => HttpResponse::Accepted().json(serde_json::json!({ "pending": id })),
        Err(error) => HttpResponse::ServiceUnavailable().body(error.to_string()),
    }
}

#[get("/stock/{article}")]
async fn in_stock(node: web::Data<Node<Shop>>, article: web::Path<String>) -> impl Responder {
    match node.query(&article, Freshness::Local).await {
        Ok(found) => HttpResponse::Ok().json(serde_json::json!({ "stock": found.answer, "as_of_block": found.height })),
        Err(error) => HttpResponse::ServiceUnavailable().body(error.to_string()),
    }
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let network = TestNetwork::start(|| Shop).await?;
    let node = network.node(0).ok_or("no node")?.clone();
    let shop = node.clone();
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(shop.clone()))
            .service(order)
            .service(in_stock)
            // The chain's own interface, and its console at /chain/console/.
            .service(web::scope("/chain").configure(shop.api()).configure(shop.console()))
    });
    let server = server.workers(1).bind(("127.0.0.1", 0))?;
    let address = *server.addrs().first().ok_or("no address")?;
    println!("the shop is at http://{address}/, its console at http://{address}/chain/console/");
    let running = server.run();
    let handle = running.handle();
    let serving = actix_web::rt::spawn(running);
    if std::env::args().any(|argument| argument == "--once") {
        let client = awc::Client::default();
        for body in [
            r#"{"deliver":{"article":"book","count":1}}"#,
            r#"{"buy":{"article":"book"}}"#,
            r#"{"buy":{"article":"book"}}"#,
        ] {
            let asked =
                client.post(format!("http://{address}/orders")).insert_header(("content-type", "application/json"));
            let mut answer = asked.send_body(body).await.map_err(|error| error.to_string())?;
            println!("{body}: {} {}", answer.status(), String::from_utf8_lossy(&answer.body().await?));
        }
        let mut live =
            client.get(format!("http://{address}/chain/livez")).send().await.map_err(|error| error.to_string())?;
        println!("the chain is {}", String::from_utf8_lossy(&live.body().await?).trim());
        handle.stop(true).await;
    }
    serving.await??;
    drop(node);
    network.shutdown().await;
    Ok(())
}
