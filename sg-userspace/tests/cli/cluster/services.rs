//! The services of the cluster: objects of the API, and what each port is called on the page.

use std::net::Ipv4Addr;

use super::network::address;

/// The pods' own port, and that of a pod on the host's network.
pub(super) const TARGET: u16 = 8080;
pub(super) const HOST: u16 = 9100;
/// A service's port.
pub(super) const PORT: u16 = 80;

/// NodePorts: of policy Cluster, of policy Local and its health check, of the pod on the host's
/// network, over UDP.
pub(super) const CLUSTER: u16 = 30080;
pub(super) const LOCAL: u16 = 30081;
pub(super) const HEALTH: u16 = 30099;
pub(super) const ON_HOST: u16 = 30082;
pub(super) const UDP: u16 = 30053;
/// Of services that are made while a policy is in force.
pub(super) const LATE: u16 = 30090;

/// What answers over UDP.
pub(super) const UDP_TARGET: u16 = 5353;

/// kube-proxy's own health check.
pub(super) const PROXY_HEALTH: u16 = 10256;

/// The ClusterIPs of the service of policy Cluster, and of the API.
pub(super) const WEB: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 80);
pub(super) const API: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// What a port is called on the page.
pub(super) fn port_name(port: u16) -> String {
    match port {
        CLUSTER | LOCAL | ON_HOST | UDP | LATE => "NP".to_owned(),
        HEALTH => "HC".to_owned(),
        TARGET | UDP_TARGET => "TP".to_owned(),
        HOST => "HP".to_owned(),
        PORT => "SP".to_owned(),
        port => port.to_string(),
    }
}

/// All of them, and the nodes.
pub(super) fn objects() -> String {
    let nodes = ["N1", "N2"].map(|node| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {}}}\n\
             status: {{addresses: [{{type: InternalIP, address: {}}}]}}\n",
            node.to_lowercase(),
            address(node)
        )
    });
    let web = Service {
        spec: format!(
            "type: NodePort\n  clusterIP: {WEB}\n  externalIPs: [{}]\n  \
             ports: [{{port: {PORT}, targetPort: {TARGET}, nodePort: {CLUSTER}}}]",
            address("E1")
        ),
        ..Service::named("web")
    };
    // Its external address is not masqueraded either.
    let local = Service {
        spec: format!(
            "type: LoadBalancer\n  externalTrafficPolicy: Local\n  \
             healthCheckNodePort: {HEALTH}\n  externalIPs: [{}]\n  \
             ports: [{{port: {PORT}, targetPort: {TARGET}, nodePort: {LOCAL}}}]",
            address("E2")
        ),
        ..Service::named("local")
    };
    let on_host = Service {
        spec: format!(
            "type: NodePort\n  ports: [{{port: {HOST}, targetPort: {HOST}, nodePort: {ON_HOST}}}]"
        ),
        endpoints: vec![("N2", "n2")],
        port: HOST,
        ..Service::named("on-host")
    };
    let udp = Service {
        spec: format!(
            "type: NodePort\n  ports: [{{protocol: UDP, port: 53, targetPort: {UDP_TARGET}, \
             nodePort: {UDP}}}]"
        ),
        port: UDP_TARGET,
        protocol: "UDP",
        ..Service::named("udp")
    };
    let services = [web, local, on_host, udp].map(|service| service.objects());
    nodes
        .into_iter()
        .chain(services)
        .collect::<Vec<_>>()
        .join("---\n")
}

/// One that is made later, with these endpoints.
pub(super) fn late(endpoints: &[(&'static str, &'static str)]) -> String {
    let service = Service {
        spec: format!(
            "type: NodePort\n  ports: [{{port: {PORT}, targetPort: {TARGET}, nodePort: {LATE}}}]"
        ),
        endpoints: endpoints.to_vec(),
        ..Service::named("late")
    };
    service.objects()
}

struct Service {
    name: &'static str,
    /// What is below `spec`.
    spec: String,
    /// Who answers, and the name of its node.
    endpoints: Vec<(&'static str, &'static str)>,
    port: u16,
    protocol: &'static str,
}

impl Service {
    /// One of the pod P.
    fn named(name: &'static str) -> Service {
        Service {
            name,
            spec: String::new(),
            endpoints: vec![("P", "n2")],
            port: TARGET,
            protocol: "TCP",
        }
    }

    /// The service, and what a controller would make of its pods.
    fn objects(&self) -> String {
        let Service { name, spec, .. } = self;
        let endpoint = |(who, node): &(&str, &str)| {
            format!(
                "{{addresses: [{}], conditions: {{ready: true}}, \
                 topology: {{kubernetes.io/hostname: {node}}}}}",
                address(who)
            )
        };
        let endpoints: Vec<String> = self.endpoints.iter().map(endpoint).collect();
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  {spec}\n---\n\
             apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\n\
             metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nendpoints: [{}]\nports: [{{port: {}, protocol: {}, name: \"\"}}]\n",
            endpoints.join(", "),
            self.port,
            self.protocol,
        )
    }
}
