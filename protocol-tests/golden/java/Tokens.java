import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.CreateDelegationTokenOptions;
import org.apache.kafka.clients.admin.RenewDelegationTokenOptions;
import org.apache.kafka.clients.admin.ScramCredentialInfo;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.clients.admin.UserScramCredentialUpsertion;
import org.apache.kafka.common.security.auth.KafkaPrincipal;
import org.apache.kafka.common.security.token.delegation.DelegationToken;

/** Apache Kafka's client authenticates in every way of a listener with PLAIN and SCRAM-SHA-256, and handles tokens. */
public final class Tokens {
    private static final String MODULES = "org.apache.kafka.common.security.";

    private Tokens() { }

    public static void main(String[] arguments) throws Exception {
        String bootstrap = arguments[0];
        DelegationToken token;
        try (Admin admin = admin(bootstrap, "PLAIN", MODULES + "plain.PlainLoginModule", "alice", "alice-secret", "")) {
            admin.alterUserScramCredentials(List.of(new UserScramCredentialUpsertion("bob",
                new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096), "bob-secret"))).all().get();
            token = admin.createDelegationToken(new CreateDelegationTokenOptions()
                .renewers(List.of(new KafkaPrincipal("User", "bob"))).maxLifetimeMs(3_600_000)).delegationToken().get();
        }
        scram(bootstrap, "bob", "bob-secret", "");
        scram(bootstrap, token.tokenInfo().tokenId(), token.hmacAsBase64String(), " tokenauth=\"true\"");
        try {
            scram(bootstrap, "bob", "wrong", "");
        } catch (ExecutionException e) {
            System.out.println("  " + e.getCause());
        }
        try (Admin admin = admin(bootstrap, "PLAIN", MODULES + "plain.PlainLoginModule", "alice", "alice-secret", "")) {
            admin.describeDelegationToken().delegationTokens().get();
            admin.renewDelegationToken(token.hmac(), new RenewDelegationTokenOptions().renewTimePeriodMs(60_000)).expiryTimestamp().get();
            admin.expireDelegationToken(token.hmac()).expiryTimestamp().get();
        }
    }

    private static void scram(String bootstrap, String user, String password, String more) throws Exception {
        try (Admin admin = admin(bootstrap, "SCRAM-SHA-256", MODULES + "scram.ScramLoginModule", user, password, more)) {
            admin.describeCluster().nodes().get();
        }
    }

    private static Admin admin(String bootstrap, String mechanism, String module, String user, String password, String more) {
        String login = "%s required username=\"%s\" password=\"%s\"%s;".formatted(module, user, password, more);
        return Admin.create(Map.of("bootstrap.servers", bootstrap, "client.id", "golden",
            "security.protocol", "SASL_PLAINTEXT", "sasl.mechanism", mechanism, "sasl.jaas.config", login));
    }
}
