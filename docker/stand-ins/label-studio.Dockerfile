# In place of heartexlabs/label-studio, of which it takes the same variables: the package that it is made of.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY scripts/requirements-label-studio.txt /
RUN python3 -m venv /opt/label-studio && /opt/label-studio/bin/pip install --no-cache-dir -r /requirements-label-studio.txt
ENV LABEL_STUDIO_BASE_DATA_DIR=/label-studio/data
VOLUME /label-studio/data
EXPOSE 8080
CMD ["/opt/label-studio/bin/label-studio", "start", "--no-browser", "--internal-host", "0.0.0.0", "--port", "8080"]
