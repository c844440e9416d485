//! Calls to the controllers: any of them will do, so another one is tried until one answers or time is up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use streamhouse_proto::{from_status, v1};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Response, Status};

use super::channel::{Client, controller_client};
use crate::errors::{CallError, Code, ConfigError};
use crate::retry::Backoff;
use crate::{clock, convert};

/// How often the cluster is asked who its controllers are.
const FOLLOW_EVERY: Duration = Duration::from_secs(10);

/// How a pool reaches its controllers.
#[derive(Clone, Debug)]
pub(crate) struct PoolConfig {
    pub(crate) controllers: Vec<String>,
    /// How long one operation may take, all tries together.
    pub(crate) operation_timeout: Duration,
    /// How long to look for one that can be reached, before any was.
    pub(crate) connect_timeout: Duration,
    /// How long one try may take.
    pub(crate) try_timeout: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            controllers: Vec::new(),
            operation_timeout: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(15),
            try_timeout: Duration::from_secs(3),
        }
    }
}

impl PoolConfig {
    pub(crate) fn set_controllers<S: Into<String>>(&mut self, all: impl IntoIterator<Item = S>) {
        self.controllers = all.into_iter().map(Into::into).collect();
    }
}

/// Connections to the controllers, made when first needed.
#[derive(Debug)]
pub(crate) struct ControllerPool {
    config: PoolConfig,
    state: Mutex<State>,
    /// The highest applied index in any answer: passed on as `min_applied`, so that this client's view of the
    /// cluster never goes backwards, whichever controller answers next.
    applied: AtomicU64,
    /// Some controller was connected to, once.
    ever_reached: AtomicBool,
    /// The task that keeps the addresses up to date, once there was a call.
    follower: OnceLock<JoinSet<()>>,
}

#[derive(Debug)]
struct State {
    addresses: Vec<Arc<str>>,
    /// Which of them is asked next.
    current: usize,
    clients: HashMap<Arc<str>, Client>,
}

impl ControllerPool {
    /// A pool that knows the given addresses. Nothing is connected yet.
    pub(crate) fn new(config: PoolConfig) -> Result<Arc<Self>, ConfigError> {
        if config.controllers.is_empty() {
            return Err(ConfigError::new("controllers", "no address given"));
        }
        if let Some(bad) = config.controllers.iter().find(|address| !has_port(address)) {
            return Err(ConfigError::new("controllers", format!("\"{bad}\" is not host:port")));
        }
        let addresses = config.controllers.iter().map(|address| Arc::from(&**address)).collect();
        let state = State { addresses, current: 0, clients: HashMap::new() };
        Ok(Arc::new(Self {
            config,
            state: Mutex::new(state),
            applied: AtomicU64::new(0),
            ever_reached: AtomicBool::new(false),
            follower: OnceLock::new(),
        }))
    }

    /// Controllers come and go: asks for them from time to time, as long as the pool is in use.
    pub(crate) fn follow(self: &Arc<Self>) {
        let pool = Arc::downgrade(self);
        self.follower.get_or_init(|| {
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                loop {
                    tokio::time::sleep(FOLLOW_EVERY).await;
                    let Some(pool) = pool.upgrade() else { return };
                    pool.ask_for_controllers().await;
                }
            });
            tasks
        });
    }

    async fn ask_for_controllers(&self) {
        let asked = self.call("get cluster", |mut client: Client| async move {
            client.get_cluster(v1::GetClusterRequest {}).await
        });
        match asked.await {
            Ok(cluster) => self.learn(cluster.controllers.iter().map(|c| &*c.address)),
            Err(error) => tracing::debug!(%error, "the controllers did not say who they are"),
        }
    }

    /// The index to pass as `min_applied`.
    pub(crate) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    /// Notes the applied index of an answer.
    pub(crate) fn observe(&self, applied: u64) {
        self.applied.fetch_max(applied, Ordering::Relaxed);
    }

    /// Adds addresses that the cluster named. Those given by the user stay: what is advertised need not be reachable
    /// from here.
    pub(crate) fn learn<'a>(&self, addresses: impl IntoIterator<Item = &'a str>) {
        let mut state = self.state.lock();
        for address in addresses {
            if has_port(address) && !state.addresses.iter().any(|known| &**known == address) {
                state.addresses.push(Arc::from(address));
            }
        }
    }

    /// Makes a call until it is answered. Each try goes to one controller; the retryable failures go on to the next.
    pub(crate) async fn call<T, F, Fut>(
        &self,
        operation: &'static str,
        attempt: F,
    ) -> Result<T, CallError>
    where
        F: FnMut(Client) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        Call::new(self, operation).run(attempt).await
    }

    /// The same, but no longer than until then.
    pub(crate) async fn call_by<T, F, Fut>(
        &self,
        until: Instant,
        operation: &'static str,
        attempt: F,
    ) -> Result<T, CallError>
    where
        F: FnMut(Client) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        Call { until: Some(until), ..Call::new(self, operation) }.run(attempt).await
    }

    /// A connection to the current controller, and its address: for streams, which choose anew when they break.
    pub(crate) async fn connect(&self) -> Result<(Arc<str>, Client), String> {
        let address = self.current();
        match self.client(&address).await {
            Ok(client) => Ok((address, client)),
            Err(error) => {
                self.rotate_from(&address);
                Err(format!("{address}: {error}"))
            }
        }
    }

    /// That controller failed: drop its connection, and if it is still the current one, go on to the next.
    pub(crate) fn give_up_on(&self, address: &str) {
        self.state.lock().clients.remove(address);
        self.rotate_from(address);
    }

    fn current(&self) -> Arc<str> {
        let state = self.state.lock();
        state.addresses[state.current % state.addresses.len()].clone()
    }

    fn rotate_from(&self, address: &str) {
        let mut state = self.state.lock();
        let count = state.addresses.len();
        if &*state.addresses[state.current % count] == address {
            state.current = (state.current + 1) % count;
        }
    }

    /// Asks `address` next.
    fn prefer(&self, address: &str) {
        self.learn([address]);
        let mut state = self.state.lock();
        if let Some(index) = state.addresses.iter().position(|known| &**known == address) {
            state.current = index;
        }
    }

    /// All addresses, those learned included.
    pub(crate) fn addresses(&self) -> Vec<Arc<str>> {
        self.state.lock().addresses.clone()
    }

    /// Drops the connection to that controller; the next call makes another.
    pub(crate) fn forget(&self, address: &str) {
        self.state.lock().clients.remove(address);
    }

    fn known(&self) -> Vec<String> {
        self.state.lock().addresses.iter().map(ToString::to_string).collect()
    }

    pub(crate) async fn client(&self, address: &Arc<str>) -> Result<Client, String> {
        if let Some(client) = self.state.lock().clients.get(address) {
            return Ok(client.clone());
        }
        let client = controller_client(address).await?;
        self.state.lock().clients.insert(address.clone(), client.clone());
        Ok(client)
    }
}

/// `host:port`, nothing more.
fn has_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        && !address.contains('/')
}

/// One operation, from its first try to its deadline.
struct Call<'a> {
    pool: &'a ControllerPool,
    operation: &'static str,
    started: Instant,
    /// When whoever asked waits no longer.
    until: Option<Instant>,
    backoff: Backoff,
    /// Failures since the last pause: after a round of all controllers we wait.
    failures: usize,
    /// Some controller was connected to.
    reached: bool,
    /// Some try may have taken effect.
    ambiguous: bool,
    last: String,
}

impl<'a> Call<'a> {
    fn new(pool: &'a ControllerPool, operation: &'static str) -> Self {
        Self {
            pool,
            operation,
            started: clock::now(),
            until: None,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
            failures: 0,
            reached: false,
            ambiguous: false,
            last: String::new(),
        }
    }

    async fn run<T, F, Fut>(mut self, mut attempt: F) -> Result<T, CallError>
    where
        F: FnMut(Client) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        loop {
            let address = self.pool.current();
            match self.pool.client(&address).await {
                Err(error) => self.unreachable(&address, error),
                Ok(client) => {
                    self.reached = true;
                    self.pool.ever_reached.store(true, Ordering::Relaxed);
                    let left = self.left().max(Duration::from_millis(1));
                    let limit = self.pool.config.try_timeout.min(left);
                    match tokio::time::timeout(limit, attempt(client)).await {
                        Ok(Ok(response)) => return Ok(response.into_inner()),
                        Ok(Err(status)) => self.refused(&address, &status)?,
                        Err(_) => self.silent(&address, limit),
                    }
                }
            }
            self.pause().await?;
        }
    }

    fn left(&self) -> Duration {
        let config = &self.pool.config;
        let patience = match self.pool.ever_reached.load(Ordering::Relaxed) {
            true => config.operation_timeout,
            false => config.operation_timeout.min(config.connect_timeout),
        };
        let left = patience.saturating_sub(self.started.elapsed());
        self.until.map_or(left, |until| left.min(until.saturating_duration_since(clock::now())))
    }

    fn unreachable(&mut self, address: &str, error: String) {
        self.last = format!("{address}: {error}");
        self.pool.give_up_on(address);
    }

    fn silent(&mut self, address: &str, limit: Duration) {
        self.ambiguous = true;
        // The last try has what is left of the time: what others were told says more.
        if self.last.is_empty() || limit == self.pool.config.try_timeout {
            self.last = format!("{address}: no answer within {limit:?}");
        }
        self.pool.give_up_on(address);
    }

    fn refused(&mut self, address: &str, status: &Status) -> Result<(), CallError> {
        let bare = status.details().is_empty();
        let (refusal, elsewhere) = convert::refusal(from_status(status));
        if !refusal.code.retryable() {
            return Err(CallError::Refused(refusal));
        }
        // RETRY: the next try carries the same request id, so an ambiguous one is safe to repeat.
        self.ambiguous |= refusal.code.may_have_taken_effect();
        self.last = format!("{address}: {refusal}");
        match elsewhere {
            Some(elsewhere) if has_port(&elsewhere) => self.pool.prefer(&elsewhere),
            // The transport's own failure: the connection is of no more use.
            _ if bare || refusal.code == Code::ConnectionLost => self.pool.give_up_on(address),
            _ => self.pool.rotate_from(address),
        }
        Ok(())
    }

    /// Waits after each round of all controllers; ends the operation at its deadline.
    async fn pause(&mut self) -> Result<(), CallError> {
        self.failures += 1;
        if self.left().is_zero() {
            return Err(self.out_of_time());
        }
        let known = self.pool.known().len();
        if self.failures.is_multiple_of(known) {
            let wait = self.backoff.next().min(self.left());
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    fn out_of_time(&mut self) -> CallError {
        let last = std::mem::take(&mut self.last);
        if !self.reached {
            return CallError::Unreachable { tried: self.pool.known(), last };
        }
        CallError::TimedOut {
            operation: self.operation,
            after: self.pool.config.operation_timeout,
            last,
            may_have_taken_effect: self.ambiguous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(addresses: &[&str]) -> Arc<ControllerPool> {
        let mut config =
            PoolConfig { operation_timeout: Duration::from_millis(50), ..PoolConfig::default() };
        config.set_controllers(addresses.iter().copied());
        ControllerPool::new(config).unwrap()
    }

    #[test]
    fn an_address_without_a_port_is_refused() {
        for bad in ["localhost", "host:", ":1", "host:70000", "http://host:1", ""] {
            let config = PoolConfig { controllers: vec![bad.to_owned()], ..PoolConfig::default() };
            assert!(ControllerPool::new(config).is_err(), "{bad}");
        }
        assert!(ControllerPool::new(PoolConfig::default()).is_err());
    }

    #[test]
    fn only_the_current_controller_is_rotated_away() {
        let pool = pool(&["a:1", "b:2"]);
        pool.give_up_on("a:1");
        assert_eq!(&*pool.current(), "b:2");
        // A second failure of the one already left must not skip the next.
        pool.give_up_on("a:1");
        assert_eq!(&*pool.current(), "b:2");
        pool.prefer("c:3");
        assert_eq!(&*pool.current(), "c:3");
    }

    #[test]
    fn the_applied_index_never_goes_back() {
        let pool = pool(&["a:1"]);
        pool.observe(7);
        pool.observe(5);
        assert_eq!(pool.applied(), 7);
    }

    #[tokio::test]
    async fn controllers_that_do_not_listen_are_all_named() {
        // Nobody listens at a port that is bound and no more, and nobody else gets it.
        let bound = [(); 2].map(|()| tokio::net::TcpSocket::new_v4().unwrap());
        let closed = bound.each_ref().map(|socket| {
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            socket.local_addr().unwrap().to_string()
        });
        let pool = pool(&[&closed[0], &closed[1]]);
        let error = pool
            .call("cluster", async |mut client: Client| {
                client.get_cluster(streamhouse_proto::v1::GetClusterRequest {}).await
            })
            .await
            .unwrap_err();
        let CallError::Unreachable { tried, last } = error else { panic!("{error}") };
        assert_eq!(tried, closed);
        assert!(last.contains("refused"), "{last}");
    }
}
