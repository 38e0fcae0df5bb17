import com.github.luben.zstd.Zstd;
import com.github.luben.zstd.ZstdOutputStream;
import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.util.Arrays;
import net.jpountz.lz4.LZ4FrameInputStream;
import net.jpountz.lz4.LZ4FrameOutputStream;
import net.jpountz.lz4.LZ4FrameOutputStream.BLOCKSIZE;
import net.jpountz.lz4.LZ4FrameOutputStream.FLG.Bits;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.record.internal.CompressionType;
import org.apache.kafka.common.utils.internals.BufferSupplier;
import org.apache.kafka.common.utils.internals.ByteBufferOutputStream;
import org.xerial.snappy.Snappy;

/**
 * Compresses and decompresses what comes over standard input with Kafka's classes and the libraries behind them.
 *
 * A question is what to do (a string), a level (32 bits) and bytes behind their length (32 bits); an answer is bytes behind
 * their length, or -1 and a string that says what went wrong.
 */
class Codecs {
    public static void main(String[] arguments) throws IOException {
        DataInputStream in = new DataInputStream(new BufferedInputStream(System.in, 1 << 20));
        DataOutputStream out = new DataOutputStream(new BufferedOutputStream(System.out, 1 << 20));
        while (true) {
            String what;
            try {
                what = in.readUTF();
            } catch (EOFException end) {
                return;
            }
            int level = in.readInt();
            byte[] input = new byte[in.readInt()];
            in.readFully(input);
            try {
                byte[] output = run(what, level, input);
                out.writeInt(output.length);
                out.write(output);
            } catch (Throwable error) {
                out.writeInt(-1);
                out.writeUTF(error.toString());
            }
            out.flush();
        }
    }

    static byte[] run(String what, int level, byte[] input) throws IOException {
        switch (what) {
            // As producers and consumers of Kafka do it; message format 0 has LZ4's old header checksum.
            case "gzip":
                return compress(Compression.gzip().level(level).build(), 2, input);
            case "snappy":
                return compress(Compression.snappy().build(), 2, input);
            case "lz4":
                return compress(Compression.lz4().level(level).build(), 2, input);
            case "lz4 old":
                return compress(Compression.lz4().level(level).build(), 0, input);
            case "zstd":
                return compress(Compression.zstd().level(level).build(), 2, input);
            case "read gzip":
            case "read snappy":
            case "read lz4":
            case "read zstd":
                return decompress(Compression.of(what.substring(5)).build(), input);
            // What their libraries can do besides.
            case "snappy raw":
                return Snappy.compress(input);
            case "zstd at once":
                return Zstd.compress(input, level);
            case "zstd checksum": {
                ByteArrayOutputStream out = new ByteArrayOutputStream();
                try (ZstdOutputStream zstd = new ZstdOutputStream(out, level)) {
                    zstd.setChecksum(true);
                    zstd.write(input, 0, input.length / 2);
                    zstd.flush();
                    zstd.write(input, input.length / 2, input.length - input.length / 2);
                }
                return out.toByteArray();
            }
            case "lz4 full": {
                ByteArrayOutputStream out = new ByteArrayOutputStream();
                BLOCKSIZE size = BLOCKSIZE.values()[Math.floorMod(level, BLOCKSIZE.values().length)];
                Bits[] bits = {
                    Bits.BLOCK_INDEPENDENCE, Bits.BLOCK_CHECKSUM, Bits.CONTENT_CHECKSUM, Bits.CONTENT_SIZE
                };
                try (OutputStream lz4 = new LZ4FrameOutputStream(out, size, input.length, bits)) {
                    lz4.write(input);
                }
                return out.toByteArray();
            }
            case "read lz4 full":
                return new LZ4FrameInputStream(new ByteArrayInputStream(input)).readAllBytes();
            default:
                throw new IllegalArgumentException(what);
        }
    }

    static byte[] compress(Compression codec, int format, byte[] input) throws IOException {
        ByteBufferOutputStream out = new ByteBufferOutputStream(512);
        try (OutputStream stream = codec.wrapForOutput(out, (byte) format)) {
            stream.write(input);
        }
        ByteBuffer buffer = out.buffer();
        buffer.flip();
        return Arrays.copyOfRange(buffer.array(), buffer.arrayOffset(), buffer.arrayOffset() + buffer.limit());
    }

    static byte[] decompress(Compression codec, byte[] input) throws IOException {
        try (InputStream stream = codec.wrapForInput(ByteBuffer.wrap(input), (byte) 2, BufferSupplier.create())) {
            return stream.readAllBytes();
        }
    }
}
