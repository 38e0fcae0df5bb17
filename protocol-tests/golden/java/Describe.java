import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.zip.CRC32C;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;

import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.message.ApiMessageType;
import org.apache.kafka.common.protocol.ApiKeys;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.ObjectSerializationCache;
import org.apache.kafka.common.record.internal.DefaultRecordBatch;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.MutableRecordBatch;
import org.apache.kafka.common.record.internal.Record;

/**
 * Adds to every line of frames or record batches what Kafka's own classes read from it, as JSON: from stdin to stdout.
 * What is there behind the bytes already is replaced; lines that start with # are passed on.
 */
public final class Describe {
    private static final String PACKAGE = "org.apache.kafka.common.message.";
    private static final JsonNodeFactory JSON = JsonNodeFactory.instance;
    /** Longer byte strings are given by their length and CRC-32C. */
    private static final int BYTES = 64;

    private Describe() { }

    public static void main(String[] arguments) throws Exception {
        String what = arguments.length == 1 ? arguments[0] : "";
        if (!what.equals("frames") && !what.equals("batches")) {
            System.err.println("usage: run Describe frames|batches <IN >OUT");
            System.exit(2);
        }
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        int other = 0;
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            if (line.isEmpty() || line.startsWith("#")) {
                out.println(line);
                continue;
            }
            String[] fields = line.split(" ", what.equals("frames") ? 4 : 3);
            if (what.equals("frames")) {
                ObjectNode json = JSON.objectNode();
                if (!frame(fields[0], Short.parseShort(fields[1]), HexFormat.of().parseHex(fields[2]), json)) {
                    System.err.printf("Kafka writes %s %s with other bytes: %s%n", fields[0], fields[1], fields[2]);
                    other++;
                }
                out.printf("%s %s %s %s%n", fields[0], fields[1], fields[2], json);
            } else {
                out.printf("%s %s %s%n", fields[0], fields[1], batches(HexFormat.of().parseHex(fields[1])));
            }
        }
        out.flush();
        if (other > 0) {
            System.err.println(other + " frames are written with other bytes");
        }
    }

    /** Fills in header and body; true if they are written with the same bytes again. */
    private static boolean frame(String name, short version, byte[] bytes, ObjectNode json) throws Exception {
        boolean request = name.endsWith("Request");
        String api = name.replaceFirst("(Request|Response)$", "");
        ApiMessageType type = Arrays.stream(ApiMessageType.values()).filter(t -> t.name.equals(api)).findFirst().get();
        ApiKeys key = ApiKeys.forId(type.apiKey());
        short header = request ? key.requestHeaderVersion(version) : key.responseHeaderVersion(version);
        ByteBuffer buffer = ByteBuffer.wrap(bytes);
        ByteBuffer again = ByteBuffer.allocate(bytes.length + 1000);
        read(request ? "RequestHeader" : "ResponseHeader", header, buffer, json, "header", again);
        read(name, version, buffer, json, "body", again);
        if (buffer.hasRemaining()) {
            json.put("trailing", buffer.remaining());
        }
        return Arrays.equals(bytes, Arrays.copyOf(again.array(), again.position()));
    }

    private static void read(String name, short version, ByteBuffer from, ObjectNode json, String as, ByteBuffer again)
            throws Exception {
        Class<?> data = Class.forName(PACKAGE + name + "Data");
        Message message = (Message) data.getConstructor().newInstance();
        message.read(new ByteBufferAccessor(from), version);
        Method converter = Class.forName(data.getName() + "JsonConverter").getMethod("write", data, short.class, boolean.class);
        json.set(as, (JsonNode) converter.invoke(null, message, version, false));
        ObjectSerializationCache cache = new ObjectSerializationCache();
        message.size(cache, version);
        message.write(new ByteBufferAccessor(again), cache, version);
    }

    /** Every whole batch with its records; null in place of what Kafka does not read, such as linked LZ4 blocks. */
    private static JsonNode batches(byte[] bytes) throws Exception {
        ArrayNode all = JSON.arrayNode();
        for (MutableRecordBatch read : MemoryRecords.readableRecords(ByteBuffer.wrap(bytes)).batches()) {
            ObjectNode batch = all.addObject();
            batch.put("magic", read.magic());
            batch.put("baseOffset", read.baseOffset());
            batch.put("lastOffset", read.lastOffset());
            batch.put("sizeInBytes", read.sizeInBytes());
            batch.put("codec", read.compressionType().name);
            batch.put("timestampType", read.timestampType().name);
            batch.put("maxTimestamp", read.maxTimestamp());
            if (read instanceof DefaultRecordBatch v2) {
                v2.ensureValid();
                batch.put("baseTimestamp", v2.baseTimestamp());
                batch.put("leaderEpoch", v2.partitionLeaderEpoch());
                batch.put("producerId", v2.producerId());
                batch.put("producerEpoch", v2.producerEpoch());
                batch.put("baseSequence", v2.baseSequence());
                batch.put("transactional", v2.isTransactional());
                batch.put("control", v2.isControlBatch());
                v2.deleteHorizonMs().ifPresent(horizon -> batch.put("deleteHorizon", horizon));
            }
            ArrayNode records = batch.putArray("records");
            for (Record record : read) {
                ArrayNode fields = records.addArray();
                fields.add(record.offset());
                fields.add(record.timestamp());
                fields.add(hex(record.key()));
                fields.add(hex(record.value()));
                ArrayNode headers = record.headers().length > 0 ? fields.addArray() : null;
                for (Header header : record.headers()) {
                    headers.addArray().add(hex(key(header))).add(hex(header.value() == null ? null : ByteBuffer.wrap(header.value())));
                }
            }
        }
        return all;
    }

    /** The key as bytes: as text it would lose those that are no UTF-8. */
    private static ByteBuffer key(Header header) throws Exception {
        Field buffer = RecordHeader.class.getDeclaredField("keyBuffer");
        buffer.setAccessible(true);
        ByteBuffer key = (ByteBuffer) buffer.get(header);
        return key != null ? key : ByteBuffer.wrap(header.key().getBytes(StandardCharsets.UTF_8));
    }

    private static String hex(ByteBuffer buffer) {
        if (buffer == null) {
            return null;
        }
        byte[] bytes = new byte[buffer.remaining()];
        buffer.duplicate().get(bytes);
        if (bytes.length <= BYTES) {
            return HexFormat.of().formatHex(bytes);
        }
        CRC32C crc = new CRC32C();
        crc.update(bytes);
        return "~%d:%08x".formatted(bytes.length, crc.getValue());
    }
}
