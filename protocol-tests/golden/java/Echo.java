import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.lang.reflect.Constructor;
import java.lang.reflect.Method;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;

import com.fasterxml.jackson.databind.JsonNode;

import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.ObjectSerializationCache;
import org.apache.kafka.common.protocol.Readable;

/**
 * Takes a line with name, version and bytes in hexadecimal per message, and answers each with a line: the bytes as
 * Kafka's generated classes write what they read, and the JSON of Kafka's converter.
 */
public final class Echo {
    private record Type(Constructor<?> read, Method toJson) {
        static Type of(String name) {
            try {
                String suffix = name.startsWith("ConsumerProtocol") ? "" : "Data";
                Class<?> data = Class.forName("org.apache.kafka.common.message." + name + suffix);
                Class<?> converter = Class.forName(data.getName() + "JsonConverter");
                return new Type(data.getConstructor(Readable.class, short.class),
                    converter.getMethod("write", data, short.class, boolean.class));
            } catch (ReflectiveOperationException e) {
                throw new IllegalArgumentException(e);
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        BufferedWriter out = new BufferedWriter(new OutputStreamWriter(System.out, StandardCharsets.UTF_8));
        Map<String, Type> types = new HashMap<>();
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split(" ", -1);
            Type type = types.computeIfAbsent(words[0], Type::of);
            short version = Short.parseShort(words[1]);
            ByteBuffer bytes = ByteBuffer.wrap(HexFormat.of().parseHex(words[2]));
            Message message = (Message) type.read.newInstance(new ByteBufferAccessor(bytes), version);
            if (bytes.hasRemaining()) {
                throw new IllegalArgumentException(bytes.remaining() + " bytes too many: " + line);
            }
            ObjectSerializationCache cache = new ObjectSerializationCache();
            ByteBuffer again = ByteBuffer.allocate(message.size(cache, version));
            message.write(new ByteBufferAccessor(again), cache, version);
            JsonNode json = (JsonNode) type.toJson.invoke(null, message, version, false);
            out.write(HexFormat.of().formatHex(again.array()) + " " + json + "\n");
        }
        out.flush();
    }
}
