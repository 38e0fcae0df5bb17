import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.lang.reflect.Method;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.HexFormat;
import java.util.Map;
import java.util.Properties;
import java.util.SplittableRandom;
import java.util.TreeMap;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.BinaryNode;
import com.fasterxml.jackson.databind.node.BooleanNode;
import com.fasterxml.jackson.databind.node.DoubleNode;
import com.fasterxml.jackson.databind.node.IntNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.LongNode;
import com.fasterxml.jackson.databind.node.NullNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.databind.node.ShortNode;
import com.fasterxml.jackson.databind.node.TextNode;

import org.apache.kafka.common.message.ApiMessageType;
import org.apache.kafka.common.protocol.ApiMessage;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.ObjectSerializationCache;
import org.apache.kafka.common.protocol.Readable;
import org.apache.kafka.common.protocol.types.BoundField;
import org.apache.kafka.common.protocol.types.Field;
import org.apache.kafka.common.protocol.types.Schema;
import org.apache.kafka.common.protocol.types.TaggedFields;
import org.apache.kafka.common.protocol.types.Type;

/**
 * Every message that a broker understands, in every stable version, as Kafka's own generated classes write it: one line
 * per vector with name, version, bytes in hexadecimal, and the JSON of Kafka's converter. The first vector of a version
 * holds the defaults, the others random values in every field, drawn from a seed.
 */
public final class Messages {
    private static final String PACKAGE = "org.apache.kafka.common.message.";
    private static final JsonNodeFactory JSON = JsonNodeFactory.instance;

    private final int samples;
    private final PrintStream out;
    private SplittableRandom random;
    private int written;

    private Messages(int samples, PrintStream out) {
        this.samples = samples;
        this.out = out;
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length != 1) {
            System.err.println("usage: run Messages SAMPLES");
            System.exit(2);
        }
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        out.printf("# kafka-clients %s, its generated message classes%n", kafkaVersion());
        Messages messages = new Messages(Integer.parseInt(arguments[0]), out);
        messages.all();
        out.flush();
        System.err.println(messages.written + " vectors");
    }

    private static String kafkaVersion() throws IOException {
        try (InputStream in = Messages.class.getResourceAsStream("/kafka/kafka-version.properties")) {
            Properties properties = new Properties();
            properties.load(in);
            return properties.getProperty("version");
        }
    }

    private void all() throws Exception {
        Map<Short, ApiMessageType> types = new TreeMap<>();
        for (ApiMessageType type : ApiMessageType.values()) {
            if (type.listeners().contains(ApiMessageType.ListenerType.BROKER)) {
                types.put(type.apiKey(), type);
            }
        }
        for (ApiMessageType type : types.values()) {
            short last = type.highestSupportedVersion(false);
            for (ApiMessage message : new ApiMessage[] {type.newRequest(), type.newResponse()}) {
                versions(message.getClass(), type.lowestSupportedVersion(), last);
            }
        }
        for (String name : new String[] {"RequestHeader", "ResponseHeader", "ConsumerProtocolSubscription",
                "ConsumerProtocolAssignment"}) {
            String suffix = name.endsWith("Header") ? "Data" : "";
            Class<?> data = Class.forName(PACKAGE + name + suffix);
            Message message = (Message) data.getConstructor().newInstance();
            versions(data, message.lowestSupportedVersion(), message.highestSupportedVersion());
        }
    }

    private void versions(Class<?> data, short first, short last) throws Exception {
        String name = data.getSimpleName().replaceFirst("Data$", "");
        Class<?> converter = Class.forName(data.getName() + "JsonConverter");
        Method toJson = converter.getMethod("write", data, short.class, boolean.class);
        Method fromJson = converter.getMethod("read", JsonNode.class, short.class);
        Schema[] schemas = (Schema[]) data.getField("SCHEMAS").get(null);
        for (short version = first; version <= last; version++) {
            for (int sample = 0; sample <= samples; sample++) {
                // A version's values do not depend on what other messages there are.
                random = new SplittableRandom((name + version).hashCode() * 1_000_003L + sample);
                Message message = sample == 0
                    ? (Message) data.getConstructor().newInstance()
                    : (Message) fromJson.invoke(null, struct(schemas[version]), version);
                byte[] bytes;
                try {
                    bytes = write(message, version);
                } catch (NullPointerException e) {
                    // The default of a field that this version may not leave null.
                    System.err.printf("%s %d has no default: %s%n", name, version, e.getMessage());
                    continue;
                }
                Message again = (Message) data.getConstructor(Readable.class, short.class)
                    .newInstance(new ByteBufferAccessor(ByteBuffer.wrap(bytes)), version);
                JsonNode json = (JsonNode) toJson.invoke(null, message, version, false);
                if (!json.equals(toJson.invoke(null, again, version, false))) {
                    throw new AssertionError(name + " " + version + " is not read as it was written");
                }
                out.printf("%s %d %s %s%n", name, version, HexFormat.of().formatHex(bytes), json);
                written++;
            }
        }
    }

    private static byte[] write(Message message, short version) {
        ObjectSerializationCache cache = new ObjectSerializationCache();
        ByteBuffer buffer = ByteBuffer.allocate(message.size(cache, version));
        message.write(new ByteBufferAccessor(buffer), cache, version);
        if (buffer.hasRemaining()) {
            throw new AssertionError("shorter than its size");
        }
        return buffer.array();
    }

    /** Every field of a version, tagged ones often left out. */
    private ObjectNode struct(Schema schema) {
        ObjectNode node = JSON.objectNode();
        for (BoundField field : schema.fields()) {
            if (field.def.type instanceof TaggedFields tagged) {
                for (Field tag : new TreeMap<>(tagged.fields()).values()) {
                    if (random.nextInt(4) != 0) {
                        node.set(jsonName(tag.name), value(tag.type));
                    }
                }
            } else {
                node.set(jsonName(field.def.name), value(field.def.type));
            }
        }
        return node;
    }

    private static String jsonName(String name) {
        StringBuilder camel = new StringBuilder();
        boolean upper = false;
        for (char c : name.toCharArray()) {
            if (c == '_') {
                upper = true;
            } else {
                camel.append(upper ? Character.toUpperCase(c) : c);
                upper = false;
            }
        }
        return camel.toString();
    }

    private JsonNode value(Type type) {
        if (type.isNullable() && random.nextInt(5) == 0) {
            return NullNode.instance;
        }
        if (type instanceof Schema schema) {
            return struct(schema);
        }
        if (type.isArray()) {
            ArrayNode array = JSON.arrayNode();
            Type element = type.arrayElementType().get();
            boolean scalar = !(element instanceof Schema);
            int length = random.nextInt(6) == 0 ? 0 : 1 + random.nextInt(2);
            if (scalar && random.nextInt(40) == 0) {
                length = 130;
            }
            for (int i = 0; i < length; i++) {
                array.add(value(element));
            }
            return array;
        }
        String name = type.toString();
        if (name.contains("STRING")) {
            return new TextNode(string());
        }
        if (name.contains("BYTES") || name.contains("RECORDS")) {
            byte[] bytes = new byte[random.nextInt(30) == 0 ? 200 : random.nextInt(9)];
            random.nextBytes(bytes);
            return new BinaryNode(bytes);
        }
        return switch (name) {
            case "BOOLEAN" -> BooleanNode.valueOf(random.nextBoolean());
            case "INT8" -> new ShortNode((short) bits(8));
            case "INT16" -> new ShortNode((short) bits(16));
            case "UINT16" -> new IntNode((int) bits(16) & 0xffff);
            case "INT32" -> new IntNode((int) bits(32));
            case "UINT32" -> new LongNode(bits(32) & 0xffffffffL);
            case "INT64" -> new LongNode(bits(64));
            case "FLOAT64" -> new DoubleNode(random.nextInt(4) == 0 ? random.nextInt(100) : random.nextGaussian() * 1e9);
            case "UUID" -> {
                byte[] bytes = new byte[16];
                random.nextBytes(bytes);
                yield new TextNode(Base64.getUrlEncoder().withoutPadding().encodeToString(bytes));
            }
            default -> throw new AssertionError("type " + name);
        };
    }

    /** A number of that many bits, the ends of the range among them. */
    private long bits(int bits) {
        long min = -1L << (bits - 1);
        return switch (random.nextInt(10)) {
            case 0 -> min;
            case 1 -> ~min;
            case 2 -> -1;
            case 3 -> 0;
            case 4, 5, 6 -> random.nextInt(100);
            default -> random.nextLong() << (64 - bits) >> (64 - bits);
        };
    }

    private String string() {
        return switch (random.nextInt(12)) {
            case 0 -> "";
            case 1 -> "Größe-😀-" + random.nextInt(100);
            case 2 -> "\u0000\u0001\"\\\n" + random.nextInt(100);
            case 3 -> random.nextInt(8) == 0 ? "long".repeat(40) : "x";
            default -> "name-" + random.nextInt(1000);
        };
    }
}
