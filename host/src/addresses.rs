//! The addresses of a name.

use std::io;
use std::net::SocketAddr;

use tokio::time::{Instant, timeout};

/// Connects to the first address that answers. A host that is gone, or a firewall, swallows what is sent to it, so each address
/// but the last has only its share of what remains until the `deadline`, at which the caller gives up.
///
/// # Errors
///
/// That of the last address.
pub(crate) async fn first_to_connect<T, E: From<io::Error>, F: Future<Output = Result<T, E>>>(
    addresses: &[SocketAddr],
    deadline: Instant,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<T, E> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address").into();
    for (left, address) in (1..=addresses.len() as u32).rev().zip(addresses) {
        let connected = match left {
            1 => connect(*address).await,
            _ => {
                let share = deadline.saturating_duration_since(Instant::now()) / left;
                let swallowed = |_| Err(io::Error::from(io::ErrorKind::TimedOut).into());
                timeout(share, connect(*address)).await.unwrap_or_else(swallowed)
            }
        };
        match connected {
            Ok(connected) => return Ok(connected),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn an_address_that_swallows_everything_takes_only_its_share() {
        let addresses: Vec<SocketAddr> = (1..=4).map(|port| ([127, 0, 0, 1], port).into()).collect();
        let begin = Instant::now();
        let deadline = begin + Duration::from_secs(2);
        let connect = async |address: SocketAddr| -> io::Result<_> {
            match address.port() {
                1 | 2 => std::future::pending().await,
                3 => Err(io::ErrorKind::ConnectionRefused.into()),
                port => Ok((port, Instant::now())),
            }
        };
        let (port, at) = first_to_connect(&addresses, deadline, connect).await.unwrap();
        assert_eq!(port, 4);
        // A quarter, and a third of the rest: half of the time is left.
        assert!(at < deadline, "tried after {:?}", at - begin);

        // The last address has all that is left, and the caller says when that is over.
        let swallowed =
            timeout(Duration::from_millis(50), first_to_connect(&addresses[..1], begin, connect)).await;
        assert!(swallowed.is_err(), "{swallowed:?}");
        let error = first_to_connect(&addresses[2..3], deadline, connect).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = first_to_connect(&[], deadline, connect).await.unwrap_err();
        assert_eq!(error.to_string(), "the name has no address");
    }
}
