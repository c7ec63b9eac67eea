//! Requests that an address may make: a bound for each, so that one client, or one that has gone wrong, does not take the node from the others.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header;
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse};

use super::ErrorView;
use crate::node::Bucket;

/// Addresses that are remembered; of more, those that have asked for nothing of late are forgotten.
const ADDRESSES_MAX: usize = 10_000;
/// What is asked by those who look after the node, and must be answered when it is busiest.
const FREE: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// Keeps each address to its requests in a second. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct RequestLimit {
    per_second: u32,
    addresses: Arc<Mutex<BTreeMap<IpAddr, Bucket>>>,
}

impl RequestLimit {
    /// So many requests in a second for each address; 0 for any number.
    pub fn new(per_second: u32) -> Self {
        Self { per_second, addresses: Arc::default() }
    }

    fn allows(&self, address: IpAddr, now: Instant) -> bool {
        if self.per_second == 0 {
            return true;
        }
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() >= ADDRESSES_MAX && !addresses.contains_key(&address) {
            addresses.retain(|_, bucket| !bucket.is_full(self.per_second, now));
            // All of them are busy: the new one has to wait like anybody whose requests are used up.
            if addresses.len() >= ADDRESSES_MAX {
                return false;
            }
        }
        let rate = self.per_second;
        addresses.entry(address).or_insert_with(|| Bucket::full(rate, now)).take(rate, now)
    }

    /// The middleware, for `App::wrap(actix_web::middleware::from_fn(…))`: the node's health and metrics at the root of the application do not count.
    pub async fn check<B: MessageBody + 'static>(
        self,
        request: ServiceRequest,
        next: Next<B>,
    ) -> Result<ServiceResponse<EitherBody<B>>, Error> {
        let address = request.peer_addr().map(|address| address.ip());
        let is_free = FREE.contains(&request.path());
        if is_free || address.is_none_or(|address| self.allows(address, Instant::now())) {
            return Ok(next.call(request).await?.map_into_left_body());
        }
        let what =
            format!("more than {} requests in a second from one address (http.requests_per_second)", self.per_second);
        let refused =
            HttpResponse::TooManyRequests().insert_header((header::RETRY_AFTER, "1")).json(ErrorView::from(what));
        Ok(request.into_response(refused).map_into_right_body())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_address_has_its_own_and_the_list_of_them_is_bounded() {
        let (limit, now) = (RequestLimit::new(3), Instant::now());
        let address = |n: u32| IpAddr::V4(Ipv4Addr::from(n));
        let allowed = |n, now| (0..10).filter(|_| limit.allows(address(n), now)).count();
        assert_eq!((allowed(1, now), allowed(1, now), allowed(2, now)), (3, 0, 3));
        for n in 3..2 + ADDRESSES_MAX as u32 {
            limit.allows(address(n), now);
        }
        assert!(!limit.allows(address(99_999), now), "all that are remembered are busy");
        let later = now + Duration::from_secs(1);
        assert!(limit.allows(address(99_999), later) && limit.addresses.lock().unwrap().len() < 10);
        assert_eq!((0..100).filter(|_| RequestLimit::new(0).allows(address(1), now)).count(), 100);
    }
}
