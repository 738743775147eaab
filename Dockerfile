# usher in a container: one static binary, no shell, not root.
# docker build --build-arg VERSION=1.0.0 -t usher .
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION}" -o /out/ ./cmd/usher ./cmd/usher-verify
RUN mkdir /out/data

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/usher /out/usher-verify /usr/local/bin/
# A volume that is made here belongs to the user who writes to it.
COPY --from=build --chown=nonroot:nonroot /out/data /data
USER nonroot
VOLUME /data
EXPOSE 8080
ENV USHER_DB=/data/usher.db USHER_LISTEN=0.0.0.0:8080
ENTRYPOINT ["/usr/local/bin/usher"]
CMD ["serve"]
